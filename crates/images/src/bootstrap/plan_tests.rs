use super::*;
use crate::bootstrap::{Mirrors, Recipe, Said};

fn context() -> Context {
    let mirrors = Mirrors::new("http://mirror.test/debian", Some("http://mirror.test/debian-security")).unwrap();
    Context {
        architecture: "amd64".to_owned(),
        sources: mirrors.sources(&Suite::default()),
        options: Vec::new(),
        folder: PathBuf::from("/"),
        lists: PathBuf::from("/"),
    }
}

fn request() -> Request {
    Request {
        recipe: Recipe::named("cc").unwrap(),
        suite: Suite::default(),
        packages: Default::default(),
        mirrors: Mirrors::new("http://mirror.test/debian", None).unwrap(),
    }
}

fn release() -> Release {
    Release { codename: "trixie".to_owned(), version: Some("13.2".to_owned()), date: 7 }
}

#[test]
fn lines_of_a_simulation() {
    let pair = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
    let line = "Inst libc6 (2.41-12+deb13u5 Debian:13.8/stable [amd64]) []";
    assert_eq!(simulated(line), pair("libc6", "2.41-12+deb13u5"));
    let line = "Inst tzdata [2025a-1] (2026f-0+deb13u1 Debian:13.8/stable [all])";
    assert_eq!(simulated(line), pair("tzdata", "2026f-0+deb13u1"));
    assert_eq!(
        simulated("Conf libgmp10 (2:6.3.0+dfsg-3 Debian:13.8/stable [amd64])"),
        pair("libgmp10", "2:6.3.0+dfsg-3")
    );
    assert_eq!(simulated("Installing (x y)"), None);
    assert_eq!(simulated("Remv x [1]"), None);
}

#[test]
fn the_key_is_all_that_has_a_say_and_nothing_else() {
    let text = |change: &dyn Fn(&mut Context, &mut Release, &mut Resolved)| {
        let (mut context, mut release, mut resolved) =
            (context(), release(), Resolved::of_packages(&[("b", "1"), ("a", "2")]));
        change(&mut context, &mut release, &mut resolved);
        key_text("cc", Kind::System, &context, &release, &resolved)
    };
    let plain = text(&|_, _, _| {});
    assert!(
        plain.starts_with("form 2\nrecipe cc System\nsuite trixie 13.2 7\narchitecture amd64\nsource Types: deb\n"),
        "{plain}"
    );
    assert!(plain.ends_with("package a=2\npackage b=1\n"), "{plain}");
    assert_eq!(plain, text(&|context, _, _| context.options.push("Acquire::Retries \"3\"".to_owned())));
    let others = [
        text(&|context, _, _| context.architecture = "arm64".to_owned()),
        text(&|context, _, _| drop(context.sources.pop())),
        text(&|_, release, _| release.date = 8),
        text(&|_, _, resolved| drop(resolved.packages.insert("a".to_owned(), "3".to_owned()))),
        text(&|_, _, resolved| resolved.wanted.push("a".to_owned())),
    ];
    for other in others {
        assert_ne!(plain, other);
    }
    let files = key_text("base", Kind::Files, &context(), &release(), &Resolved::of_packages(&[]));
    assert!(!files.contains("mirror.test"), "{files}");
}

#[test]
fn what_apt_says_becomes_an_error_of_its_kind() {
    let explain = |lines: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let broken = Broken { step: "x".to_owned(), said: Said { lines: lines.clone() }, errors: lines };
        context().explain(broken, &request(), &["gcc=99".to_owned()])
    };
    let error = explain(&["E: Unable to locate package nosuch"]);
    assert_eq!(error.to_string(), "the suite trixie has no package nosuch");
    let error = explain(&["E: Version '99' for 'gcc' was not found"]);
    assert_eq!(error.to_string(), "the suite trixie has no package gcc=99");
    let error = explain(&["E: Package 'openjdk-21-jdk' has no installation candidate"]);
    assert!(matches!(error, BootstrapError::Package { .. }), "{error}");
    let error = explain(&[
        "E: The repository 'http://mirror.test/debian trixie-updates Release' does not have a Release file.",
    ]);
    assert!(matches!(&error, BootstrapError::Suite { suite, .. } if suite == "trixie-updates"), "{error}");
    let error = explain(&[
        "Err:1 http://mirror.test/debian trixie InRelease",
        "W: Failed to fetch http://me:pw@mirror.test/debian/dists/trixie/InRelease  Could not resolve 'mirror.test'",
        "E: The repository 'http://mirror.test/debian trixie Release' does not have a Release file.",
    ]);
    assert!(matches!(&error, BootstrapError::Unreachable { .. }), "{error}");
    let error = explain(&["E: GPG error: http://mirror.test/debian trixie InRelease: NO_PUBKEY 0"]);
    assert!(matches!(error, BootstrapError::Signature { .. }), "{error}");
    let error = explain(&["E: write (28: No space left on device)"]);
    assert!(matches!(error, BootstrapError::NoRoom { .. }), "{error}");
    assert!(matches!(explain(&["E: else"]), BootstrapError::Failed { .. }));
}

#[test]
fn lists_are_linked_without_their_lock() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("from"), folder.path().join("a/b/to"));
    fs::create_dir_all(from.join("partial")).unwrap();
    fs::write(from.join("lock"), "").unwrap();
    fs::write(from.join("m_Packages"), "x").unwrap();
    link_files(&from, &to).unwrap();
    let names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["m_Packages"]);
}
