use super::*;
use crate::{
    bootstrap::{Mirrors, Recipe, Said},
    layer::{Compression, Packed},
    store::digest_in,
};

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

/// Puts an image into the store whose annotations say what they like.
fn annotated(store: &Store, lease: &crate::Lease, annotations: &str) -> oci_spec::image::Descriptor {
    use std::io::Write as _;
    let put = |text: &str| {
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(text.as_bytes()).unwrap();
        ingest.commit_as(Algorithm::Sha256, lease).unwrap()
    };
    let layer = put("a layer");
    let configuration = put(&format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
        layer.digest
    ));
    let describe = |media_type: &str, blob| crate::store::describe(media_type, blob).unwrap();
    let manifest = put(&format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"annotations":{annotations}}}"#,
        crate::media::OCI_MANIFEST,
        serde_json::to_string(&describe(crate::media::OCI_CONFIG, &configuration)).unwrap(),
        serde_json::to_string(&describe(crate::media::OCI_LAYER, &layer)).unwrap(),
    ));
    let target = describe(crate::media::OCI_MANIFEST, &manifest);
    store.tag(&"posing:1".parse().unwrap(), &target).unwrap();
    target
}

#[test]
fn an_image_that_says_it_was_made_here_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let lease = store.lease(crate::Owner::Process).unwrap();
    let key = Key(digest_of(Algorithm::Sha256, b"key"));
    annotated(&store, &lease, &format!(r#"{{"jdos.bootstrap.key":"{key}","jdos.bootstrap.base":"{key}"}}"#));
    assert_eq!(known::image(&store, &key).unwrap(), None);
    assert!(known::base(&store, &lease, &key, Compression::None).unwrap().is_none());
}

#[test]
fn what_was_made_is_known_for_as_long_as_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let lease = store.lease(crate::Owner::Process).unwrap();
    let key = Key(digest_of(Algorithm::Sha256, b"key"));
    let target = annotated(&store, &lease, "{}");
    let crate::Manifest::Image(manifest) = store.manifest(&digest_in(&target).unwrap()).unwrap() else { panic!() };
    let diff_id = digest_of(Algorithm::Sha256, b"a layer");
    let layer = Packed { descriptor: manifest.layers()[0].clone(), diff_id: diff_id.clone(), size: 0 };
    known::made_base(&store, &key, &layer).unwrap();
    known::made(&store, &key, &target).unwrap();
    assert_eq!(known::image(&store, &key).unwrap().unwrap().target, target);
    let base = known::base(&store, &lease, &key, Compression::None).unwrap().unwrap();
    assert_eq!((base.descriptor, base.diff_id), (layer.descriptor.clone(), diff_id));
    let other = Key(digest_of(Algorithm::Sha256, b"other"));
    assert_eq!(known::image(&store, &other).unwrap(), None);
    // The notes keep nothing, and say nothing once it is gone.
    store.untag(&"posing:1".parse().unwrap()).unwrap();
    lease.release().unwrap();
    let all = crate::collect::Options { grace: std::time::Duration::ZERO, ingest: std::time::Duration::ZERO };
    crate::collect::run(&store, &all).unwrap();
    assert!(store.blob(&digest_in(&target).unwrap()).unwrap().is_none());
    let lease = store.lease(crate::Owner::Process).unwrap();
    assert_eq!(known::image(&store, &key).unwrap(), None);
    assert!(known::base(&store, &lease, &key, Compression::None).unwrap().is_none());
    // And they go with the next one.
    let target = annotated(&store, &lease, r#"{"a":"b"}"#);
    known::made(&store, &other, &target).unwrap();
    let count = |table: &str| -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        store.index().read("count", |connection| connection.query_row(&sql, (), |row| row.get(0))).unwrap()
    };
    assert_eq!((count("bootstrap_images"), known::image(&store, &other).unwrap().unwrap().target), (1, target));
}
