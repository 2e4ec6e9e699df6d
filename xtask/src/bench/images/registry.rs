//! Our registry against distribution's: manifests, a large layer, memory; and a long list of referrers.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::http::{Body, Connection};
use super::lab::Lab;
use super::layout::{digest, digest_of};
use super::server::Server;
use super::unpack::noise;
use crate::bench::report::{Row, median};
use crate::output;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const BYTES: &str = "application/octet-stream";
/// Manifests fetched in one run, and by how many at once.
const GETS: u64 = 4000;
const CLIENTS: usize = 4;
/// Size of the large layer.
const LAYER: usize = 200 << 20;
/// Artifacts of one subject, and who pushes them.
const ARTIFACTS: u64 = 100_000;
const PUSHERS: usize = 8;
/// The name of an absolute promise in the place of a peer.
const BOUND: &str = "bound";

/// All works.
///
/// # Errors
/// A registry fails.
pub fn measure(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let servers = [Server::ours(lab)?, Server::peer(lab)?];
    let mut rows = Vec::new();
    rows.extend(output::step("manifest gets", || manifests(&servers, (rounds / 2).max(4)))?);
    rows.extend(output::step("a layer of 200 MiB", || layer(lab, &servers, (rounds / 6).max(3)))?);
    let [(now, most), (peer_now, peer_most)] = [servers[0].memory()?, servers[1].memory()?];
    rows.push(Row::new("resident memory at its largest", (most, peer_most), PEER, "MiB", Some(0.5)));
    rows.push(Row::new("resident memory afterwards", (now, peer_now), PEER, "MiB", None));
    let [ours, peer] = servers;
    // It has no referrers: nobody to compare with.
    drop(peer);
    rows.extend(output::step("referrers", || referrers(&ours, rounds))?);
    Ok(rows)
}

const PEER: &str = "distribution";

/// Figures of both servers, round by round.
#[derive(Default)]
struct Figures([Vec<(f64, f64)>; 2]);

impl Figures {
    fn add(&mut self, server: usize, figure: (f64, f64)) {
        self.0[server].push(figure);
    }
    fn medians(&self, which: fn(&(f64, f64)) -> f64) -> (f64, f64) {
        let of = |server: usize| median(&self.0[server].iter().map(which).collect::<Vec<_>>());
        (of(0), of(1))
    }
}

fn manifests(servers: &[Server; 2], rounds: u32) -> Result<Vec<Row>> {
    let mut targets = Vec::new();
    for server in servers {
        let mut connection = server.connect()?;
        let config = upload(
            &mut connection,
            "bench/image",
            b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}",
        )?;
        let blob = upload(&mut connection, "bench/image", b"a layer")?;
        let document = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": described(&config, "application/vnd.oci.image.config.v1+json"),
            "layers": (0..8).map(|_| described(&blob, "application/vnd.oci.image.layer.v1.tar+gzip")).collect::<Vec<_>>()});
        let bytes = serde_json::to_vec(&document)?;
        put_manifest(&mut connection, "bench/image", "latest", &bytes)?;
        targets = vec![
            ("by tag", "/v2/bench/image/manifests/latest".to_owned()),
            ("by digest", format!("/v2/bench/image/manifests/{}", digest(&bytes))),
        ];
    }
    let mut rows = Vec::new();
    for (how, path) in targets {
        let mut figures = Figures::default();
        for round in 0..rounds + 1 {
            for (at, server) in servers.iter().enumerate() {
                let figure = server.measure(|| gets(server, &path))?;
                // The first warms caches up.
                if round > 0 {
                    figures.add(at, figure);
                }
            }
        }
        let thousand = |(ours, peer): (f64, f64)| (ours * 1e3 / GETS as f64, peer * 1e3 / GETS as f64);
        let cpu = thousand(figures.medians(|figure| figure.1));
        rows.push(Row::new(&format!("processor time of 1000 manifest gets {how}"), cpu, PEER, "ms", Some(0.33)));
        let time = thousand(figures.medians(|figure| figure.0));
        rows.push(Row::new(&format!("time of these, {CLIENTS} clients"), time, PEER, "ms", None));
    }
    Ok(rows)
}

fn gets(server: &Server, path: &str) -> Result<()> {
    let mut connections = (0..CLIENTS).map(|_| server.connect()).collect::<Result<Vec<_>>>()?;
    std::thread::scope(|scope| {
        let clients: Vec<_> = connections
            .iter_mut()
            .map(|connection| {
                scope.spawn(move || {
                    (0..GETS / CLIENTS as u64).try_for_each(|_| {
                        connection.request("GET", path, MANIFEST, &Body::None, false)?.expect(200).map(drop)
                    })
                })
            })
            .collect();
        clients.into_iter().try_for_each(joined)
    })
}

fn joined(thread: std::thread::ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn layer(lab: &Lab, servers: &[Server; 2], rounds: u32) -> Result<Vec<Row>> {
    let file = lab.folder.join("runs/layer");
    fs::write(&file, noise(LAYER)).with_context(|| format!("cannot write {}", file.display()))?;
    let (mut push, mut pull) = (Figures::default(), Figures::default());
    for round in 0..rounds + 1 {
        for turn in 0..2 {
            let at = (turn + round as usize) % 2;
            let server = &servers[at];
            // Another content each time: nothing may be there already.
            stamp(&file, u64::from(round) * 2 + at as u64)?;
            let digest = digest_of(&file)?;
            let mut connection = server.connect()?;
            let pushed = server.measure(|| send(&mut connection, "bench/layer", &file, &digest))?;
            let path = format!("/v2/bench/layer/blobs/{digest}");
            let pulled = server.measure(|| {
                let answer = connection.request("GET", &path, BYTES, &Body::None, false)?.expect(200)?;
                ensure!(answer.length == LAYER as u64, "{} bytes came", answer.length);
                Ok(())
            })?;
            if round > 0 {
                push.add(at, pushed);
                pull.add(at, pulled);
            }
        }
    }
    let time = |figures: &Figures| figures.medians(|figure| figure.0);
    let cpu = |figures: &Figures| figures.medians(|figure| figure.1);
    Ok(vec![
        Row::new("pushing a layer of 200 MiB", time(&push), PEER, "ms", Some(1.0)),
        Row::new("processor time of that", cpu(&push), PEER, "ms", Some(0.7)),
        Row::new("pulling it", time(&pull), PEER, "ms", Some(1.0)),
        Row::new("processor time of that", cpu(&pull), PEER, "ms", Some(0.7)),
    ])
}

fn stamp(path: &Path, number: u64) -> Result<()> {
    let file = OpenOptions::new().write(true).open(path);
    let file: File = file.with_context(|| format!("cannot open {}", path.display()))?;
    file.write_all_at(&number.to_le_bytes(), 0).with_context(|| format!("cannot write {}", path.display()))
}

/// As clients do it: begin, stream, close.
fn send(connection: &mut Connection, repository: &str, file: &Path, digest: &str) -> Result<()> {
    let begun = connection
        .request("POST", &format!("/v2/{repository}/blobs/uploads/"), BYTES, &Body::None, false)?
        .expect(202)?;
    let location = begun.field("location").context("an upload without location")?.to_owned();
    let sent = connection.request("PATCH", &location, BYTES, &Body::File(file), false)?.expect(202)?;
    let location = sent.field("location").context("an upload without location")?;
    let gap = if location.contains('?') { '&' } else { '?' };
    connection
        .request("PUT", &format!("{location}{gap}digest={digest}"), BYTES, &Body::None, false)?
        .expect(201)
        .map(drop)
}

fn upload(connection: &mut Connection, repository: &str, bytes: &[u8]) -> Result<(String, usize)> {
    let mut file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    file.write_all(bytes).context("cannot write a temporary file")?;
    send(connection, repository, file.path(), &digest(bytes))?;
    Ok((digest(bytes), bytes.len()))
}

fn described((digest, size): &(String, usize), kind: &str) -> Value {
    json!({"mediaType": kind, "digest": digest, "size": size})
}

fn put_manifest(connection: &mut Connection, repository: &str, reference: &str, bytes: &[u8]) -> Result<()> {
    let path = format!("/v2/{repository}/manifests/{reference}");
    connection.request("PUT", &path, MANIFEST, &Body::Bytes(bytes), false)?.expect(201).map(drop)
}

fn referrers(server: &Server, rounds: u32) -> Result<Vec<Row>> {
    let repository = "bench/signed";
    let mut connection = server.connect()?;
    let empty = upload(&mut connection, repository, b"{}")?;
    let kind = "application/vnd.oci.empty.v1+json";
    let subject = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": described(&empty, kind), "layers": [described(&empty, kind)]}))?;
    put_manifest(&mut connection, repository, "subject", &subject)?;
    let subject_digest = digest(&subject);
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = server.connect()?;
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= ARTIFACTS {
                            return Ok(());
                        }
                        let artifact = serde_json::to_vec(&json!({"schemaVersion": 2, "mediaType": MANIFEST,
                            "artifactType": "application/vnd.example.signature", "annotations": {"number": number.to_string()},
                            "config": described(&empty, kind), "layers": [described(&empty, kind)],
                            "subject": {"mediaType": MANIFEST, "digest": subject_digest, "size": subject.len()}}))?;
                        put_manifest(&mut connection, repository, &digest(&artifact), &artifact)?;
                    }
                })
            })
            .collect();
        pushers.into_iter().try_for_each(joined)
    })?;
    let each = begin.elapsed().as_secs_f64() * 1e6 / ARTIFACTS as f64;
    output::detail(&format!("{ARTIFACTS} artifacts pushed, {each:.0} µs each"));
    let path = format!("/v2/{repository}/referrers/{subject_digest}");
    // The first one has been idle for so long that a server may have closed it.
    let mut connection = server.connect()?;
    let (mut first, mut all, mut pages) = (Vec::new(), Vec::new(), 0);
    for _ in 0..rounds.clamp(5, 40) {
        let begin = Instant::now();
        let mut target = Some(path.clone());
        pages = 0;
        while let Some(path) = target.take() {
            let answer =
                connection.request("GET", &path, "application/vnd.oci.image.index.v1+json", &Body::None, false)?;
            let answer = answer.expect(200)?;
            pages += 1;
            if pages == 1 {
                first.push(begin.elapsed().as_secs_f64() * 1e3);
            }
            target = answer.field("link").and_then(|link| Some(link.strip_prefix('<')?.split('>').next()?.to_owned()));
        }
        all.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    Ok(vec![
        Row::new(
            "referrers of a subject with 100 000 artifacts, an answer",
            (median(&first), 50.0),
            BOUND,
            "ms",
            Some(1.0),
        ),
        Row::new(&format!("all {pages} answers of that list"), (median(&all), 50.0), BOUND, "ms", None),
    ])
}
