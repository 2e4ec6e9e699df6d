//! Debian's registry and skopeo. Needs `docker-registry` and `skopeo`.

use super::*;
use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

/// A registry of Debian's, ended with the value.
struct Peer {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Peer {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: true}}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            folder.path().join("data").display()
        );
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("docker-registry runs");
        let peer = Self { child, port, _folder: folder };
        let end = std::time::Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < end, "docker-registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).unwrap();
    }
}

fn skopeo(words: &[&str]) -> String {
    let output = Command::new("skopeo").args(words).output().expect("skopeo runs");
    assert!(output.status.success(), "skopeo {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_we_push_others_read_and_what_others_push_we_read() {
    let (peer, ours, theirs) = (Peer::new(), Machine::new(), Machine::new());
    let sample = Sample::new(9_000_000);
    let target = sample.keep(&ours, "local:1");
    let name = format!("127.0.0.1:{}/some/image:1", peer.port);
    let client = ours.client(|settings| settings.stall = Duration::from_secs(20));
    client.push(&target, &name.parse().unwrap(), Arc::new(crate::Silent)).await.unwrap();
    let seen = skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")]);
    assert_eq!(seen.as_bytes(), sample.manifest);
    let copy = format!("127.0.0.1:{}/copy:2", peer.port);
    let flags = ["--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests"];
    skopeo(&["copy", flags[0], flags[1], flags[2], &format!("docker://{name}"), &format!("docker://{copy}")]);
    let client = theirs.client(|settings| settings.stall = Duration::from_secs(20));
    let pulled = client.pull(&copy.parse().unwrap(), &here(), &crate::Silent).await.unwrap();
    assert!(theirs.has(&copy));
    assert_eq!(crate::store::digest_in(&pulled.target).unwrap(), digest(&sample.manifest));
    // To another repository of the same registry nothing is sent but the manifest.
    let third = format!("127.0.0.1:{}/third:3", peer.port);
    let watched = Arc::new(Watched::default());
    client.push(&pulled.target, &third.parse().unwrap(), watched.clone()).await.unwrap();
    assert_eq!((watched.count("Exists"), watched.count("Transfer")), (2, 0), "{:?}", watched.0);
}

#[tokio::test]
async fn an_index_of_several_platforms_goes_both_ways() {
    let (peer, ours, theirs) = (Peer::new(), Machine::new(), Machine::new());
    let (one, two) = (Sample::new(1000), Sample::new(2000));
    for sample in [&one, &two] {
        sample.keep(&ours, "parts:x");
    }
    let platform = crate::store::host_platform();
    let entry = |sample: &Sample, architecture: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"{}","architecture":"{architecture}"}}}}"#,
            crate::media::OCI_MANIFEST,
            digest(&sample.manifest),
            sample.manifest.len(),
            platform.os()
        )
    };
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
        crate::media::OCI_INDEX,
        entry(&one, &platform.architecture().to_string()),
        entry(&two, "s390x")
    );
    let lease = ours.store.lease(crate::store::Owner::Process).unwrap();
    // Both again: the name was given to the second only.
    for sample in [&one, &two] {
        sample.keep(&ours, &format!("parts:{}", sample.layer.len()));
    }
    let bytes = index.as_bytes();
    let mut ingest = ours.store.ingest().unwrap();
    std::io::Write::write_all(&mut ingest, bytes).unwrap();
    ingest.commit_as(Algorithm::Sha256, &lease).unwrap();
    let media_type = crate::media::named(crate::media::OCI_INDEX);
    let target = manifest::describe(&digest(bytes), bytes.len() as u64, media_type).unwrap();
    let name: ImageName = format!("127.0.0.1:{}/multi:1", peer.port).parse().unwrap();
    let patient = |settings: &mut Settings| settings.stall = Duration::from_secs(20);
    ours.client(patient).push(&target, &name, Arc::new(crate::Silent)).await.unwrap();
    assert_eq!(skopeo(&["inspect", "--tls-verify=false", "--raw", &format!("docker://{name}")]).as_bytes(), bytes);
    let pulled = theirs.client(patient).pull(&name, &here(), &crate::Silent).await.unwrap();
    let has = |sample: &Sample| theirs.store.blob(&digest(&sample.layer)).unwrap().is_some();
    assert_eq!((has(&one), has(&two)), (true, false), "only this machine's platform came");
    let error = theirs.client(patient).push(&pulled.target, &name, Arc::new(crate::Silent)).await.unwrap_err();
    assert!(error.to_string().contains("s390x"), "{error}");
    theirs.client(patient).pull(&name, &Platforms::All, &crate::Silent).await.unwrap();
    assert!(has(&two));
    let error = theirs
        .client(patient)
        .pull(
            &name,
            &Platforms::One(serde_json::from_str(r#"{"os":"linux","architecture":"riscv64"}"#).unwrap()),
            &crate::Silent,
        )
        .await
        .unwrap_err();
    let causes = format!("{error} {}", std::error::Error::source(&error).unwrap());
    assert!(causes.contains("riscv64") && causes.contains("s390x"), "{causes}");
}
