use super::*;
use container::options::{DnsOptions, LogOptions, RuntimeKind, SeccompChoice};
use model::{ByteSize, NetworkMode};

/// Parses the flags as `create` does and translates them.
fn read(words: &[&str]) -> (CreateOptions, Vec<(String, String)>) {
    #[derive(clap::Parser)]
    #[command(disable_help_flag = true)]
    struct Only {
        #[command(flatten)]
        create: CreateArguments,
    }
    let only = <Only as clap::Parser>::try_parse_from(["create"].iter().chain(words)).unwrap();
    let environment = [("HOME", "/root"), ("APP_A", "1"), ("APP_B", "2")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    let read = |path: &Path| match path.to_str() {
        Some("/here/vars") => Ok("# comment\n\nA=from file\n  B=two words \nHOME\nNOT_SET\n".to_owned()),
        Some("/here/bad") => Ok("A=1\n=x\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let is_file = |path: &Path| path.extension().is_some_and(|extension| extension == "tar");
    let surroundings =
        Surroundings { directory: Path::new("/here"), environment: &environment, read: &read, is_file: &is_file };
    let mut problems = Problems::default();
    let options = create_options(&only.create, None, &surroundings, &mut problems);
    (options, problems.into_vec().into_iter().map(|problem| (problem.argument, problem.problem)).collect())
}

/// Options of flags that are all right.
fn good(words: &[&str]) -> CreateOptions {
    let (options, problems) = read(&[&["--rootfs", "/r"], words, &["sh"]].concat());
    assert!(problems.is_empty(), "{problems:?}");
    options
}

/// What is said about flags of which one is wrong.
fn wrong(words: &[&str]) -> (String, String) {
    let (_, problems) = read(&[&["--rootfs", "/r"], words, &["sh"]].concat());
    assert_eq!(problems.len(), 1, "{words:?}: {problems:?}");
    problems.into_iter().next().unwrap()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn the_first_word_that_is_no_flag_begins_the_command() {
    let (options, problems) = read(&["--rootfs", "root", "ls", "-la", "--rm", "-e", "x"]);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(options.root, RootSource::Directory("/here/root".into()));
    assert_eq!(options.command, ["ls", "-la", "--rm", "-e", "x"]);
    assert!(!options.remove);
    assert_eq!(good(&["--entrypoint", "env"]).command, ["env", "sh"]);
    assert_eq!(good(&["--entrypoint", "[\"env\",\"-i\"]"]).command, ["env", "-i", "sh"]);
    assert_eq!(wrong(&["--entrypoint", "[x"]).0, "--entrypoint");
}

#[test]
fn roots() {
    assert_eq!(read(&["--rootfs", "./a.tar", "x"]).0.root, RootSource::Tar("/here/a.tar".into()));
    let layers = read(&["--layer", "base/", "--layer", "/top", "x"]).0.root;
    assert_eq!(layers, RootSource::Layers(vec!["/here/base".into(), "/top".into()]));
    let (bundle, problems) = read(&["--bundle", "b"]);
    assert_eq!((bundle.root, problems), (RootSource::Bundle("/here/b".into()), vec![]), "a bundle has its own command");

    let (_, problems) = read(&[]);
    assert_eq!(problems[0].0, "IMAGE");
    assert!(problems[0].1.contains("name an image") && problems[0].1.contains("--layer DIR"));
    assert_eq!(read(&["alpine"]).1, [], "what the image says is not known yet");
    assert!(wrong(&["--bundle", "/b"]).1.contains("only one of"));
    assert_eq!(read(&["--rootfs", "/r"]).1[0].0, "COMMAND");
}

#[test]
fn program() {
    let options = good(&["-it", "-w", "/w", "-u", "www:80", "--group-add", "tty", "--ulimit", "nofile=10:20"]);
    assert!(options.interactive && options.tty);
    assert_eq!(options.workdir.as_deref(), Some("/w"));
    assert_eq!(options.user.as_deref(), Some("www:80"));
    assert_eq!((options.groups, options.ulimit), (vec!["tty".to_owned()], vec!["nofile=10:20".to_owned()]));
    assert_eq!(good(&["--oom-score-adj", "-500"]).oom_score_adj, Some(-500));
    assert_eq!(wrong(&["--oom-score-adj", "1001"]).0, "--oom-score-adj");
    assert_eq!(wrong(&["--workdir", "w"]).0, "--workdir");
}

#[test]
fn environment_comes_from_flags_the_caller_and_files() {
    let options = good(&["-e", "A=1", "--env", "B=x=y", "-e", "EMPTY=", "-e", "HOME", "-e", "MISSING", "-e", "A=2"]);
    assert_eq!(options.env, pairs(&[("A", "2"), ("B", "x=y"), ("EMPTY", ""), ("HOME", "/root")]));
    assert_eq!(good(&["-e", "APP_*"]).env, pairs(&[("APP_A", "1"), ("APP_B", "2")]));
    let options = good(&["-e", "A=flag", "--env-file", "vars"]);
    assert_eq!(options.env, pairs(&[("A", "flag"), ("B", "two words "), ("HOME", "/root")]));
    assert_eq!(wrong(&["-e", "=1"]).0, "--env");
    assert!(wrong(&["--env-file", "bad"]).1.starts_with("bad, line 2: "));
    assert!(wrong(&["--env-file", "absent"]).1.starts_with("/here/absent: "));
}

#[test]
fn storage() {
    let options = good(&["-v", "./data:/data:ro", "-v", "named:/v", "--tmpfs", "/tmp:size=1m", "--read-only"]);
    assert_eq!(options.volumes, ["/here/data:/data:ro", "named:/v"]);
    assert_eq!(options.tmpfs, ["/tmp:size=1m"]);
    assert!(options.read_only);
    assert_eq!(good(&["--shm-size", "1m"]).shm_size, Some(ByteSize(1 << 20)));
    assert_eq!(good(&["--device", "/dev/fuse"]).devices, ["/dev/fuse"]);
    assert_eq!(wrong(&["-v", "only"]).0, "--volume");
    assert_eq!(good(&["-v", "/own"]).volumes, ["/own"]);
    assert_eq!(wrong(&["-v", "/a:b"]).0, "--volume");
    assert_eq!(wrong(&["--shm-size", "big"]).0, "--shm-size");
}

#[test]
fn mounts_say_what_the_short_forms_say() {
    for (mount, volumes, tmpfs) in [
        ("type=bind,src=d,dst=/d,ro", vec!["/here/d:/d:ro"], vec![]),
        ("type=bind,source=/s,target=/d,readonly=false,bind-propagation=rslave", vec!["/s:/d:rw,rslave"], vec![]),
        ("type=volume,source=data,destination=/d,nosuid", vec!["data:/d:nosuid"], vec![]),
        ("src=data,dst=/d", vec!["data:/d"], vec![]),
        ("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777", vec![], vec!["/t:size=1m,mode=1777"]),
        ("type=tmpfs,target=/t", vec![], vec!["/t"]),
    ] {
        let options = good(&["--mount", mount]);
        assert_eq!(
            (options.volumes, options.tmpfs),
            (volumes.into_iter().map(String::from).collect(), tmpfs.into_iter().map(String::from).collect()),
            "{mount}"
        );
    }
    for (mount, word) in [
        ("type=bind,dst=/d", "no src"),
        ("type=bind,src=/s", "no dst"),
        ("type=glob,src=/s,dst=/d", "`glob`"),
        ("type=volume,src=/s,dst=/d", "type=bind"),
        ("type=tmpfs,src=/s,dst=/d", "no src"),
        ("type=bind,src=/s:x,dst=/d", "colon"),
        ("type=bind,src=/s,dst=/d,ro=perhaps", "true or false"),
        ("type=bind,src=/s,dst=/d,tmpfs-size=1m", "type=tmpfs"),
        ("type=bind,src,dst=/d", "`src`"),
        ("type=bind,src=/s,dst=/d,what=1", "`what=1`"),
    ] {
        let (flag, problem) = wrong(&["--mount", mount]);
        assert!(flag == "--mount" && problem.contains(word), "{mount}: {problem}");
    }
}

#[test]
fn network() {
    let options =
        good(&["--net", "shop", "-p", "8080:80", "-p", "9000-9001:90-91/udp", "--ip", "10.1.2.3", "-h", "web"]);
    assert_eq!(options.network, Some(NetworkMode::Bridge("shop".parse().unwrap())));
    let published: Vec<_> = options.publish.iter().map(ToString::to_string).collect();
    assert_eq!(published, ["8080:80/tcp", "9000:90/udp", "9001:91/udp"]);
    assert_eq!(options.ip, Some([10, 1, 2, 3].into()));
    assert_eq!(options.hostname.as_deref(), Some("web"));
    assert_eq!(good(&["--network=none"]).network, Some(NetworkMode::None));
    assert_eq!(good(&["--network", "host"]).network, Some(NetworkMode::Host));
    assert_eq!(good(&[]).network, None);
    for (words, flag) in [
        (["--network", "container:x"], "--network"),
        (["--network", "bridge:ip=1"], "--network"),
        (["--network", "Shop"], "--network"),
        (["-p", "0:80"], "--publish"),
        (["--ip", "10.1"], "--ip"),
    ] {
        assert_eq!(wrong(&words).0, flag);
    }
}

#[test]
fn names() {
    let options = good(&[
        "--dns",
        "1.1.1.1",
        "--dns",
        "::1",
        "--dns-search",
        "a.b",
        "--dns-option",
        "ndots:2",
        "--dns-opt",
        "rotate",
        "--add-host",
        "db:10.0.0.7",
        "--add-host",
        "six:[::7]",
        "--add-host",
        "seven:::7",
    ]);
    let expected = DnsOptions {
        servers: vec!["1.1.1.1".parse().unwrap(), "::1".parse().unwrap()],
        search: vec!["a.b".to_owned()],
        options: vec!["ndots:2".to_owned(), "rotate".to_owned()],
        hosts: [("db", "10.0.0.7"), ("six", "::7"), ("seven", "::7")]
            .map(|(name, ip)| (name.to_owned(), ip.parse().unwrap()))
            .to_vec(),
    };
    assert_eq!(options.dns, expected);
    assert_eq!(wrong(&["--dns", "none"]).0, "--dns");
    assert_eq!(wrong(&["--add-host", "db"]).0, "--add-host");
    assert_eq!(wrong(&["--add-host", ":10.0.0.7"]).0, "--add-host");
}

#[test]
fn privileges() {
    let options = good(&["--cap-add", "net_admin,SYS_TIME", "--cap-drop", "all"]);
    assert_eq!(options.cap_add, ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
    assert_eq!(options.cap_drop, ["ALL"]);
    assert_eq!(wrong(&["--cap-add", "ROOT"]).0, "--cap-add");
    assert!(good(&[]).no_new_privileges && !good(&["--privileged"]).no_new_privileges);
    assert!(good(&["--privileged"]).privileged);
    assert!(good(&["--privileged", "--security-opt", "no-new-privileges"]).no_new_privileges);
    assert!(!good(&["--security-opt", "no-new-privileges=false"]).no_new_privileges);
    assert!(!good(&["--security-opt", "no-new-privileges:false"]).no_new_privileges);
    assert_eq!(good(&["--security-opt", "seccomp=unconfined"]).seccomp, SeccompChoice::Unconfined);
    assert_eq!(good(&["--security-opt", "seccomp=p.json"]).seccomp, SeccompChoice::Profile("/here/p.json".into()));
    assert_eq!(good(&["--security-opt", "label=disable"]).seccomp, SeccompChoice::Default);
    assert_eq!(wrong(&["--security-opt", "seccomp"]).0, "--security-opt");
    assert_eq!(wrong(&["--security-opt", "mask=/x"]).0, "--security-opt");
    assert_eq!(good(&["--sysctl", "net.core.somaxconn=9"]).sysctl, pairs(&[("net.core.somaxconn", "9")]));
    assert_eq!(wrong(&["--sysctl", "x"]).0, "--sysctl");
}

#[test]
fn namespaces() {
    let options = good(&["--pid=host", "--ipc=host", "--uts=host", "--cgroupns=host", "--userns=host"]);
    assert_eq!([options.pid, options.ipc, options.uts, options.cgroupns], [NamespaceMode::Host; 4]);
    assert_eq!(options.userns, Some(NamespaceMode::Host));
    assert_eq!(good(&[]).userns, None);
    assert_eq!(good(&["--userns=private"]).userns, Some(NamespaceMode::Private));
    for flag in ["--pid", "--ipc", "--uts", "--cgroupns", "--userns"] {
        assert_eq!(wrong(&[flag, "container:x"]).0, flag);
    }
}

#[test]
fn keeping() {
    let options = good(&["--name", "web", "--rm", "-l", "a=b=c", "--label", "bare", "--stop-signal", "SIGINT"]);
    assert_eq!(options.name.map(String::from).as_deref(), Some("web"));
    assert!(options.remove);
    assert_eq!(options.labels.into_iter().collect::<Vec<_>>(), pairs(&[("a", "b=c"), ("bare", "")]));
    assert_eq!(options.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(good(&["--stop-timeout", "0"]).stop_timeout, Some(0));
    assert_eq!(good(&["--runtime", "runc"]).runtime, RuntimeKind::Runc);
    let log = LogOptions { max_size: ByteSize(1 << 20), max_files: 5 };
    assert_eq!(good(&["--log-opt", "max-size=1m", "--log-opt", "max-file=5"]).log, log);
    assert_eq!(good(&["--log-opt", "max-size=1m,max-file=5"]).log, log);
    for (words, flag) in [
        (vec!["--name", "a/b"], "--name"),
        (vec!["--label", "=x"], "--label"),
        (vec!["--stop-signal", "NONE"], "--stop-signal"),
        (vec!["--stop-timeout", "soon"], "--stop-timeout"),
        (vec!["--log-opt", "max-size=1k"], "--log-opt"),
        (vec!["--log-opt", "max-file=0"], "--log-opt"),
        (vec!["--log-opt", "tag=x"], "--log-opt"),
        (vec!["--runtime", "kata"], "--runtime"),
        (vec!["--replace"], "--replace"),
        (vec!["--memory", "x"], "--memory"),
    ] {
        assert_eq!(wrong(&words).0, flag);
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let (_, problems) = read(&["--name", "a/b", "-p", "x", "--memory", "y"]);
    let flags: Vec<_> = problems.iter().map(|(flag, _)| flag.as_str()).collect();
    assert_eq!(flags, ["IMAGE", "COMMAND", "--memory", "--publish", "--name"]);
}
