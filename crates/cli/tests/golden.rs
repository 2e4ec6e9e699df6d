//! What the command line prints, compared with the files in `tests/golden`. After an intended change:
//! `UPDATE_GOLDEN=1 cargo test -p cli --test golden`, and review the difference.
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

use cli::print::Streams;
use std::{ffi::OsString, fs, path::Path};

/// Runs one line in an empty data folder; gives its code and both outputs, with the folder's name taken out.
fn run(line: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap().to_owned();
    let mut words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
    let flags = match words.get(1).and_then(|word| word.to_str()) {
        Some("container") => vec![format!("--data={place}/data"), format!("--run={place}/run")],
        Some("registry" | "image") => vec![format!("--data={place}/data")],
        _ => Vec::new(),
    };
    words.splice(2.min(words.len())..2.min(words.len()), flags.into_iter().map(OsString::from));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams {
        out: &mut out,
        err: &mut err,
        out_is_terminal: false,
        err_is_terminal: false,
        colour: false,
        width: Some(100),
    };
    let code = cli::run(words, &mut streams);
    let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
    let mut text = format!("$ {line}\n");
    for (label, stream) in [("", out), ("stderr:\n", err)] {
        if !stream.is_empty() {
            text.push_str(label);
            text.push_str(&stream.replace(&place, "PLACE"));
        }
    }
    text.push_str(&format!("exit code: {}\n", code.0));
    text
}

/// Compares the lines' results with `golden/NAME.txt`, or writes that file when `UPDATE_GOLDEN` is set.
fn compare(name: &str, lines: &[&str]) {
    let found = lines.iter().map(|line| run(line)).collect::<Vec<_>>().join("\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if found == expected {
        return;
    }
    let differing = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    let line = differing.unwrap_or(found.lines().count().min(expected.lines().count()));
    panic!(
        "{} differs from line {} on\n expected: {:?}\n found:    {:?}\nrun with UPDATE_GOLDEN=1 and review the difference",
        path.display(),
        line + 1,
        expected.lines().nth(line),
        found.lines().nth(line),
    );
}

#[test]
fn help() {
    compare("help", &["jdos --help", "jdos container --help", "jdos container network --help"]);
}

#[test]
fn registry() {
    compare(
        "registry",
        &[
            "jdos registry --help",
            "jdos registry serve --help",
            "jdos registry user --help",
            "jdos registry user add --help",
            "jdos registry robot --help",
            "jdos registry user ls",
            "jdos registry robot rm ci",
            "jdos registry robot add CI --allow **:pull",
            "jdos registry robot add ci --allow team",
            "jdos registry robot add ci --allow team:fly",
            "jdos registry robot add ci --allow **:pull --expires soon",
            "jdos registry serve --listen 0.0.0.0:0 --max-uploads 0 --url x",
            "jdos registry serve --tls-cert /nowhere/cert.pem --tls-key /nowhere/key.pem",
        ],
    );
}

#[test]
fn help_of_images() {
    compare("help-image", &["jdos image --help"]);
    let verbs = [
        "ls",
        "inspect",
        "pull",
        "push",
        "tag",
        "rm",
        "import",
        "unpack",
        "export",
        "bootstrap",
        "prune",
        "df",
        "login",
        "logout",
    ];
    for verb in verbs {
        compare(&format!("help-image-{verb}"), &[&format!("jdos image {verb} --help")]);
    }
}

#[test]
fn images_that_are_not_there() {
    compare(
        "images",
        &[
            "jdos image ls",
            "jdos image --json ls",
            "jdos image prune --dry-run",
            "jdos image inspect web",
            "jdos image --json inspect web",
            "jdos image rm web Web",
            "jdos image rm --ignore web",
            "jdos image tag web web:2",
            "jdos image pull web",
            "jdos image pull Web:1",
            "jdos image pull --platform linux/a/b/c registry.invalid/web",
            "jdos image push web",
            "jdos image export web -o /tmp/web.tar",
            "jdos image import /no/such/file",
            "jdos image prune --grace soon",
            "jdos image bootstrap pyton",
            "jdos image bootstrap cc:Trixie",
            "jdos image bootstrap cc --package -x",
            "jdos image bootstrap cc --package a,b",
            "jdos image bootstrap cc --mirror ftp://mirror.test/debian",
            "jdos image bootstrap cc --security-mirror http://mirror.test/debian-security",
            "jdos image pul web",
            "jdos container run web",
            "jdos container run --pull never registry.invalid/web:1",
        ],
    );
}

#[test]
fn help_of_run() {
    compare("help-run", &["jdos container run --help"]);
}

#[test]
fn help_of_the_other_verbs() {
    let verbs = [
        "create",
        "start",
        "stop",
        "kill",
        "pause",
        "resume",
        "update",
        "wait",
        "rm",
        "prune",
        "ps",
        "inspect",
        "logs",
        "stats",
        "exec",
        "attach",
        "reconcile",
        "reset",
    ];
    for verb in verbs {
        compare(&format!("help-{verb}"), &[&format!("jdos container {verb} --help")]);
    }
}

#[test]
fn unknown_words_are_answered_with_the_closest() {
    compare(
        "unknown",
        &[
            "jdos contaner ps",
            "jdos container rnu",
            "jdos container ps --al",
            "jdos container run --memry 64m --rootfs / true",
            "jdos container run -Z",
            "jdos container --json inspct web",
            "jdos container stats --format xml",
            "jdos container volume ls",
            "jdos container --json logs",
            "jdos container --json network",
        ],
    );
}

#[test]
fn arguments_that_can_not_be_used_are_all_named() {
    compare(
        "arguments",
        &[
            "jdos container run alpine sh",
            "jdos container create --rootfs / --memory 64q --cpus none --publish 80:http --name a/b true",
            "jdos container create --rootfs / --mount type=bind,src=/a --cap-add ROOT --network container:web true",
            "jdos container --json create --rootfs / --env =x true",
            "jdos container run --rootfs / --detach-keys ctrl-1 true",
            "jdos container logs --since soon web",
            "jdos container kill --signal NONE web",
            "jdos container update web",
            "jdos container update --memory much web",
            "jdos container ps --filter colour=red",
            "jdos container stop",
            "jdos container start --attach a b",
            "jdos container start --interactive a",
            "jdos container exec web",
            "jdos container network rm ../x",
            "jdos container prune --json",
            "jdos container reset",
            "jdos container network inspect ../x",
        ],
    );
}

#[test]
fn what_is_not_there_is_said_with_what_to_do() {
    compare(
        "missing",
        &[
            "jdos container inspect web",
            "jdos container inspect --json web",
            "jdos container stop web db",
            "jdos container rm --json web",
            "jdos container rm --ignore web",
            "jdos container exec web true",
            "jdos container attach web",
            "jdos container start -a web",
            "jdos container logs web",
            "jdos container stats web",
            "jdos container update --memory 64m web",
            "jdos container network rm --json web",
            "jdos container network inspect front",
        ],
    );
}

#[test]
fn an_empty_machine() {
    compare(
        "empty",
        &[
            "jdos container ps",
            "jdos container ps --all --json",
            "jdos container ps --quiet",
            "jdos container stop --all",
            "jdos container stop --all --json",
            "jdos container stats --json",
            "jdos container stats",
            "jdos container prune --force --json",
            "jdos container network ls --json",
            "jdos container network prune --force --json",
        ],
    );
}

/// The scripts change with every flag: only that they come and know the verbs is held.
#[test]
fn completion_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&format!("jdos completion {shell}"));
        assert!(
            script.ends_with("exit code: 0\n") && script.contains("reconcile") && script.contains("pids-limit"),
            "{shell}"
        );
    }
    assert!(run("jdos --version").contains(&format!("jdos {}\n", env!("CARGO_PKG_VERSION"))));
}
