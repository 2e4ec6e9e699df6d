//! Images in files.

use crate::support::*;
use images::{
    Owner, Silent, Store,
    archive::{ArchiveError, Format, Source, export, export_folder, import},
    tarball::Kind,
};
use model::image::ImageName;
use oci_spec::image::Descriptor;
use serde_json::json;
use std::{fs, io::Cursor};

fn filled() -> (tempfile::TempDir, Store, Vec<(ImageName, Descriptor)>) {
    let (folder, store) = store();
    let lease = store.lease(Owner::Process).unwrap();
    let base = || Layer::gzip(tar(&[file("base", &vec![7; 2 << 20])]));
    let first = image(&lease, &[base(), Layer::zstd(tar(&[file("one", b"1")]))]);
    let second = image(&lease, &[base(), Layer::plain(tar(&[file("two", b"2")]))]);
    let images = vec![(name("example.org/first:v1"), first), (name("second:latest"), second)];
    for (name, target) in &images {
        store.tag(name, target).unwrap();
    }
    (folder, store, images)
}

fn exported(store: &Store, images: &[(ImageName, Descriptor)], format: Format) -> Vec<u8> {
    let mut bytes = Vec::new();
    export(store, images, format, None, &mut bytes).unwrap();
    bytes
}

fn stream(bytes: Vec<u8>) -> Source<'static> {
    Source::Stream(Box::new(Cursor::new(bytes)))
}

/// Unpacks an image and gives the names of its files.
fn files(store: &Store, target: &Descriptor) -> Vec<String> {
    let lease = store.lease(Owner::Process).unwrap();
    let (manifest, configuration) = documents(store, target);
    let layers = store.unpack(&lease, &manifest, &configuration, &Silent).unwrap();
    layers.iter().flat_map(|layer| list(layer)).collect()
}

#[test]
fn an_oci_layout_comes_back_with_the_same_digests() {
    let (folder, from, images) = filled();
    let bytes = exported(&from, &images, Format::Oci);
    assert_eq!(bytes, exported(&from, &images, Format::Oci));
    let layout = folder.path().join("layout");
    export_folder(&from, &images, &layout).unwrap();
    assert!(export_folder(&from, &images, &layout).is_err(), "it is not empty now");
    let archive = folder.path().join("archive.tar.gz");
    fs::write(&archive, gzip(&bytes)).unwrap();
    for source in [Source::Path(&layout), Source::Path(&archive), stream(bytes)] {
        let (_folder, to) = store();
        let imported = import(&to, source, None, &Silent).unwrap();
        let found: Vec<_> = imported.iter().map(|image| (image.names[0].clone(), image.target.clone())).collect();
        assert_eq!(found, images);
        assert_eq!(files(&to, &images[0].1), ["base", "one"]);
        assert_eq!(to.images().unwrap().len(), 2);
    }
}

#[test]
fn a_docker_archive_has_the_same_files() {
    let (_folder, from, images) = filled();
    let (_folder2, to) = store();
    let bytes = exported(&from, &images, Format::Docker);
    assert_eq!(bytes, exported(&from, &images, Format::Docker));
    let imported = import(&to, stream(bytes), None, &Silent).unwrap();
    assert_eq!(imported.len(), 2);
    for (name, file) in [("example.org/first:v1", "one"), ("second", "two")] {
        let image = to.image(&self::name(name)).unwrap().unwrap();
        assert_eq!(files(&to, &image.target), ["base", file]);
    }
}

#[test]
fn one_image_can_be_given_another_name() {
    let (_folder, from, images) = filled();
    let (_folder2, to) = store();
    let one = exported(&from, &images[..1], Format::Oci);
    assert_eq!(
        import(&to, stream(one.clone()), Some(&name("other:tag")), &Silent).unwrap()[0].names,
        [name("other:tag")]
    );
    // Without a tag: that of the archive.
    assert_eq!(import(&to, stream(one), Some(&name("other")), &Silent).unwrap()[0].names, [name("other:v1")]);
    let both = exported(&from, &images, Format::Oci);
    assert!(matches!(import(&to, stream(both), Some(&name("x")), &Silent), Err(ArchiveError::Several(2))));
    assert_eq!(to.images().unwrap().len(), 2);
}

fn config(plain: &[&[u8]]) -> String {
    let ids: Vec<String> = plain
        .iter()
        .map(|plain| images::digest::digest_of(model::image::Algorithm::Sha256, plain).to_string())
        .collect();
    json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": null, "Volumes": null}, "rootfs": {"type": "layers", "diff_ids": ids}}).to_string()
}

#[test]
fn docker_archives_as_old_versions_wrote_them() {
    let (_folder, store) = store();
    let layers = [tar(&[file("a", &vec![1; 2 << 20])]), tar(&[file("b", b"2")])];
    // Docker before 25: a folder for each layer, the second use of a layer is a link; the manifest comes last.
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["old:1", "example.org/old:2"], "Layers": ["x/layer.tar", "y/layer.tar", "z/layer.tar"] }]);
    let archive = tar(&[
        other("x/", Kind::Directory, ""),
        file("x/VERSION", b"1.0"),
        file("x/layer.tar", &layers[0]),
        file("y/layer.tar", &gzip(&layers[1])),
        other("z/layer.tar", Kind::Symlink, "../x/layer.tar"),
        file("c.json", config(&[&layers[0], &layers[1], &layers[0]]).as_bytes()),
        file("manifest.json", manifest.to_string().as_bytes()),
        file("repositories", b"{}"),
    ]);
    let imported = import(&store, stream(archive), None, &Silent).unwrap();
    assert_eq!(imported[0].names, [name("old:1"), name("example.org/old:2")]);
    assert_eq!(files(&store, &imported[0].target), ["a", "b", "a"]);
    // Before 1.10: no manifest at all.
    let archive = tar(&[
        file("top/json", br#"{"id":"top","parent":"base","created":"2015-01-01T00:00:00Z","architecture":"amd64","os":"linux","config":{"Cmd":["sh"]}}"#),
        file("top/layer.tar", &layers[1]),
        file("base/json", br#"{"id":"base"}"#),
        file("base/layer.tar", &layers[0]),
        file("repositories", br#"{"ancient":{"1":"top"}}"#),
    ]);
    let imported = import(&store, stream(archive), None, &Silent).unwrap();
    assert_eq!(files(&store, &imported[0].target), ["a", "b"]);
    let (_, configuration) = documents(&store, &imported[0].target);
    assert_eq!(configuration.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["sh"]);
}

#[test]
fn archives_that_are_none_say_why() {
    let (folder, from, images) = filled();
    let (_folder2, to) = store();
    let layout = folder.path().join("layout");
    export_folder(&from, &images[..1], &layout).unwrap();
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let fails = |source: Source<'_>, problem: &str| {
        let error = import(&to, source, None, &Silent).unwrap_err();
        assert!(chain(&error).contains(problem), "{problem}: {}", chain(&error));
        assert!(to.images().unwrap().is_empty());
    };
    fails(Source::Path(&empty), "neither an OCI image layout");
    fails(Source::Path(&folder.path().join("nowhere")), "nowhere");
    fails(stream(b"this is no archive, and long enough to be the header of one".repeat(20)), "wrong checksum");
    let whole = exported(&from, &images, Format::Oci);
    fails(stream(whole[..whole.len() / 2].to_vec()), "the archive ends");
    let manifest = |layers: &str| format!(r#"[{{"Config":"c.json","RepoTags":["a:1"],"Layers":{layers}}}]"#);
    let good = tar(&[file("a", b"")]);
    let docker = |config: String, layers: &str, layer: &[u8]| {
        stream(tar(&[
            file("c.json", config.as_bytes()),
            file("manifest.json", manifest(layers).as_bytes()),
            file("l.tar", layer),
        ]))
    };
    fails(docker(config(&[&good]), r#"["absent.tar"]"#, &good), "lacks `absent.tar`, which `manifest.json` refers to");
    fails(docker(config(&[&good]), r#"["l.tar"]"#, &tar(&[])), "`l.tar` in the archive is damaged");
    fails(docker(config(&[]), r#"["l.tar"]"#, &good), "it has 0 diff ids, `manifest.json` 1 layers");
    fails(docker("{".to_owned(), r#"["l.tar"]"#, &good), "`c.json` in the archive can not be used");
    fails(docker(config(&[&good]), r#"["../l.tar"]"#, &good), "lacks");
    fails(stream(tar(&[file("../manifest.json", b"[]")])), "`..`");
    // A blob of the layout that is damaged, absent, or of a type that nobody knows.
    let (_, digest) = images[0].1.digest().as_ref().split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let path = layout.join("blobs/sha256").join(&digest);
    let good = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, [&good[..], b" "].concat()).unwrap();
    fails(Source::Path(&layout), "is damaged: its bytes hash to");
    fs::remove_file(&path).unwrap();
    fails(Source::Path(&layout), "which `index.json` refers to");
    fs::write(&path, good).unwrap();
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    fs::remove_file(layout.join("index.json")).unwrap();
    fs::write(layout.join("index.json"), index.replace("image.manifest.v1", "image.unheard-of.v1")).unwrap();
    fails(Source::Path(&layout), "`application/vnd.oci.image.unheard-of.v1+json`, which is neither");
    fs::write(
        layout.join("index.json"),
        index.replace("io.containerd.image.name", "x").replace("org.opencontainers.image.ref.name", "y"),
    )
    .unwrap();
    fails(Source::Path(&layout), "does not name its image");
    assert_eq!(import(&to, Source::Path(&layout), Some(&name("now")), &Silent).unwrap()[0].names, [name("now:latest")]);
}

#[test]
fn only_what_is_there_of_an_index_goes_out_and_comes_in() {
    let (_folder, from) = store();
    let lease = from.lease(Owner::Process).unwrap();
    let mut here = image(&lease, &[Layer::gzip(tar(&[file("here", b"")]))]);
    here.set_platform(Some(images::store::host_platform()));
    let mut arm = images::store::host_platform();
    arm.set_architecture("arm64".into());
    let absent = images::Blob {
        digest: images::digest::digest_of(model::image::Algorithm::Sha256, b"no"),
        size: 2,
        path: "/".into(),
    };
    let mut foreign = images::store::describe(images::media::OCI_MANIFEST, &absent).unwrap();
    foreign.set_platform(Some(arm));
    let index = json!({ "schemaVersion": 2, "mediaType": images::media::OCI_INDEX, "manifests": [here, foreign] });
    let index = images::store::describe(images::media::OCI_INDEX, &put(&lease, index.to_string().as_bytes())).unwrap();
    let images = [(name("multi:1"), index)];
    let (_folder2, to) = store();
    let imported = import(&to, stream(exported(&from, &images, Format::Oci)), None, &Silent).unwrap();
    assert_eq!(imported[0].target, images[0].1);
    assert_eq!(files(&to, &images[0].1), ["here"]);
    let (_folder3, to) = store();
    import(&to, stream(exported(&from, &images, Format::Docker)), None, &Silent).unwrap();
    assert!(to.image(&name("multi:1")).unwrap().is_some());
}

/// The reference implementation of all these formats, from and to which images are copied without a registry.
#[test]
fn skopeo_reads_what_we_write_and_writes_what_we_read() {
    let (folder, from) = store();
    let lease = from.lease(Owner::Process).unwrap();
    // No zstd: it does not turn such layers into Docker's formats.
    let layers = [Layer::gzip(tar(&[file("base", &vec![7; 2 << 20])])), Layer::gzip(tar(&[file("one", b"1")]))];
    let images = [(name("example.org/first:v1"), image(&lease, &layers))];
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("ours.docker"), exported(&from, &images[..1], Format::Docker)).unwrap();
    fs::write(path("ours.oci"), exported(&from, &images[..1], Format::Oci)).unwrap();
    export_folder(&from, &images[..1], &folder.path().join("ours")).unwrap();
    let [docker, oci, layout] = [path("ours.docker"), path("ours.oci"), path("ours")];
    for source in [
        format!("docker-archive:{docker}"),
        format!("oci-archive:{oci}:example.org/first:v1"),
        format!("oci:{layout}:example.org/first:v1"),
    ] {
        for kind in ["docker-archive", "oci-archive", "oci"] {
            let out = path("theirs");
            let name = if kind == "oci" { "tag" } else { "theirs.example/a:tag" };
            run("skopeo", &["--insecure-policy", "copy", "--quiet", &source, &format!("{kind}:{out}:{name}")]);
            let (_folder, to) = store();
            let given = self::name("given.example/b");
            let imported =
                import(&to, Source::Path(std::path::Path::new(&out)), (kind == "oci").then_some(&given), &Silent);
            let imported = imported.unwrap_or_else(|error| panic!("{source} as {kind}: {}", chain(&error)));
            let expected = if kind == "oci" { "given.example/b:tag" } else { "theirs.example/a:tag" };
            assert_eq!(imported[0].names, [self::name(expected)], "{source} as {kind}");
            assert_eq!(files(&to, &imported[0].target), ["base", "one"], "{source} as {kind}");
            drop(fs::remove_dir_all(&out).or_else(|_| fs::remove_file(&out)));
        }
    }
}

#[test]
fn an_archive_of_nothing_but_names_takes_little_memory() {
    let (_folder, to) = store();
    // Each has a name and a target of 4000 bytes; compressed, all of them are a few kilobytes.
    let long = "n".repeat(200) + "/";
    let entries: Vec<_> =
        (0..5000).map(|n| other(&format!("{}{n}", long.repeat(19)), Kind::Symlink, &long.repeat(19))).collect();
    let error = import(&to, stream(tar(&entries)), None, &Silent).unwrap_err();
    assert!(chain(&error).contains("the names of the archive's files take more than"), "{}", chain(&error));
}

#[test]
fn a_folder_gives_only_regular_files_of_its_own() {
    let (folder, from, images) = filled();
    let (_folder2, to) = store();
    let layout = folder.path().join("layout");
    export_folder(&from, &images[..1], &layout).unwrap();
    let manifest = from.manifest(&images[0].1.digest().as_ref().parse().unwrap()).unwrap();
    let images::Manifest::Image(manifest) = manifest else { panic!("it is an image") };
    let blob = format!("blobs/sha256/{}", manifest.layers()[0].digest().digest());
    let fails = |name: &str, problem: &str| {
        let error = import(&to, Source::Path(&layout), None, &Silent).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(&format!("`{name}`")) && text.contains(problem), "{name}, {problem}: {text}");
        assert!(to.images().unwrap().is_empty());
    };
    for name in ["oci-layout", "index.json", &blob] {
        // The very same bytes, but elsewhere.
        let (path, outside) = (layout.join(name), folder.path().join("outside"));
        fs::rename(&path, &outside).unwrap();
        std::os::unix::fs::symlink(&outside, &path).unwrap();
        fails(name, "it is a link");
        fs::remove_file(&path).unwrap();
        run("mkfifo", &[path.to_str().unwrap()]);
        fails(name, "it is not a regular file");
        fs::remove_file(&path).unwrap();
        run("mknod", &[path.to_str().unwrap(), "c", "1", "5"]);
        fails(name, "it is not a regular file");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fails(name, "it is not a regular file");
        fs::remove_dir(&path).unwrap();
        fs::rename(&outside, &path).unwrap();
    }
    // A folder of it that is a link; the layout itself may be behind one.
    fs::rename(layout.join("blobs"), folder.path().join("blobs")).unwrap();
    std::os::unix::fs::symlink("../blobs", layout.join("blobs")).unwrap();
    fails(&blob, "leads through");
    fs::remove_file(layout.join("blobs")).unwrap();
    fs::rename(folder.path().join("blobs"), layout.join("blobs")).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&layout, &link).unwrap();
    assert_eq!(import(&to, Source::Path(&link), None, &Silent).unwrap()[0].target, images[0].1);
}

/// An archive of these documents, with the last of them as its only image.
fn layout_of(documents: &[String], media_type: &str) -> Vec<u8> {
    let digest = |text: &String| images::digest::digest_of(model::image::Algorithm::Sha256, text.as_bytes());
    let mut entries = vec![file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)];
    let path = |text| digest(text).as_str().replace(':', "/");
    entries.extend(documents.iter().map(|text| file(&format!("blobs/{}", path(text)), text.as_bytes())));
    let top = &documents[documents.len() - 1];
    let top = json!({"mediaType": media_type, "digest": digest(top).as_str(), "size": top.len()});
    let index = json!({"schemaVersion": 2, "manifests": [top]});
    entries.push(file("index.json", index.to_string().as_bytes()));
    tar(&entries)
}

#[test]
fn indexes_that_list_each_other_again_and_again() {
    use images::{
        digest::digest_of,
        media::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST},
    };
    let sha256 = |text: &str| digest_of(model::image::Algorithm::Sha256, text.as_bytes());
    let part = |media_type: &str, text: &str| json!({"mediaType": media_type, "digest": sha256(text).as_str(), "size": text.len()});
    let manifest =
        |config: &str| json!({"schemaVersion": 2, "config": part(OCI_CONFIG, config), "layers": []}).to_string();
    let index = |media_type: &str, below: &[&String], times: usize| {
        let below: Vec<_> = below.iter().map(|text| part(media_type, text)).collect();
        json!({"schemaVersion": 2, "manifests": vec![below; times].concat()}).to_string()
    };
    // 1000 × 1000 × 1000 × 1000 ways to one manifest.
    let mut documents = vec!["{}".to_owned(), manifest("{}")];
    for depth in 0..4 {
        let media_type = if depth == 0 { OCI_MANIFEST } else { OCI_INDEX };
        documents.push(index(media_type, &[&documents[documents.len() - 1]], 1000));
    }
    let given = name("given:1");
    let (_folder, to) = store();
    let began = std::time::Instant::now();
    import(&to, stream(layout_of(&documents, OCI_INDEX)), Some(&given), &Silent).unwrap();
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    // More manifests than any image has.
    let many: Vec<String> = (0..300).map(|n| manifest(&format!("{{\"n\":{n}}}"))).collect();
    let top = index(OCI_MANIFEST, &many.iter().collect::<Vec<_>>(), 1);
    let configs = (0..300).map(|n| format!("{{\"n\":{n}}}"));
    let documents: Vec<String> = configs.chain(many.iter().cloned()).chain([top]).collect();
    let error = import(&to, stream(layout_of(&documents, OCI_INDEX)), Some(&given), &Silent).unwrap_err();
    assert!(chain(&error).contains("too many manifests"), "{}", chain(&error));
}
