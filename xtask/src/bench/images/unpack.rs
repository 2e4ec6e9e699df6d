//! Unpacking a base, and a second image on it, against `tar x` of the same layers with one sync.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::lab::Lab;
use super::layout::Layout;
use crate::bench::report::Row;
use crate::bench::subject::{Subject, interleave};
use crate::run;

/// What is in the layer that the second image has more: a file of a mebibyte.
const MORE: usize = 1 << 20;

/// Both works.
///
/// # Errors
/// A run fails.
pub fn measure(lab: &Lab, rounds: u32) -> Result<Vec<Row>> {
    let second = second(lab)?;
    let (base, both) = (lab.base.folder().to_path_buf(), second.folder().to_path_buf());
    let mut ours = subject(lab, "unpack", move |lab, data| {
        import(lab, data, &base, "base:1")?;
        Ok(unpack(lab, data, "base:1"))
    })?;
    let base = lab.base.folder().to_path_buf();
    let mut more = subject(lab, "second", move |lab, data| {
        import(lab, data, &base, "base:1")?;
        import(lab, data, &both, "second:1")?;
        let words = unpack(lab, data, "base:1");
        run::quiet(Command::new(&words[0]).args(&words[1..]))?;
        Ok(unpack(lab, data, "second:1"))
    })?;
    let layers = lab.base.layers();
    let mut tar = subject(lab, "tar", move |_, folder| {
        // What every other tool would do, and nothing that it need not.
        let script = "set -e; cd \"$0\"; for layer; do n=$((n+1)); mkdir $n; tar --zstd -xpf \"$layer\" --numeric-owner -C $n; done; sync -f .; echo done";
        let mut words = ["sh", "-c", script].map(str::to_owned).to_vec();
        words.push(text(folder));
        words.extend(layers.iter().map(|layer| text(layer)));
        Ok(words)
    })?;
    interleave(&mut [&mut ours, &mut tar, &mut more], (rounds / 4).max(3))?;
    let all = |subject: &Subject| subject.median(|sample| sample.all);
    let cpu = |subject: &Subject| subject.median(|sample| sample.cpu);
    let peer = "tar x, sync -f";
    Ok(vec![
        Row::new("unpacking and committing a base", (all(&ours), all(&tar)), peer, "ms", Some(1.0)),
        Row::new("processor time of that", (cpu(&ours), cpu(&tar)), peer, "ms", None),
        Row::new("a second image on that base", (all(&more), all(&tar)), "tar x of the base", "ms", Some(0.1)),
    ])
}

/// A subject each of whose runs has a folder of its own, in which `prepare` makes ready what is then measured.
fn subject(
    lab: &Lab,
    name: &'static str,
    prepare: impl Fn(&Lab, &Path) -> Result<Vec<String>> + 'static,
) -> Result<Subject> {
    let place = Lab {
        jdos: lab.jdos.clone(),
        registry: lab.registry.clone(),
        folder: lab.folder.clone(),
        base: lab.base.clone(),
        group: lab.group.clone(),
    };
    let make = move |_: u64| {
        let words = place.run_folder(name).and_then(|folder| {
            let words = prepare(&place, &folder)?;
            // What was written to make ready is not the run's to bring to disk.
            run::quiet(Command::new("sync").arg("-f").arg(&folder))?;
            Ok(words)
        });
        vec![words.unwrap_or_else(|error| {
            ["sh", "-c", "echo \"$0\" >&2; exit 1", &format!("{error:#}")].map(str::to_owned).to_vec()
        })]
    };
    Subject::start(name, &[], &format!("{}/{name}", lab.group), &[], Box::new(make))
}

fn second(lab: &Lab) -> Result<Layout> {
    let folder = lab.run_folder("layout")?;
    let content = folder.join("content");
    std::fs::create_dir(&content).with_context(|| format!("cannot make {}", content.display()))?;
    std::fs::write(content.join("more"), noise(MORE)).context("cannot write the second image's file")?;
    let tar = folder.join("layer.tar");
    run::quiet(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&content).arg("more"))?;
    let layer = std::fs::read(&tar).with_context(|| format!("cannot read {}", tar.display()))?;
    lab.base.with(&layer, &folder.join("second"))
}

/// Bytes that nothing compresses, always the same (xorshift).
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

fn import(lab: &Lab, data: &Path, layout: &Path, name: &str) -> Result<()> {
    let mut command = Command::new(&lab.jdos);
    command.args(["image", "--data"]).arg(data).args(["import", "--quiet", "--name", name]).arg(layout);
    run::quiet(&mut command).map(drop)
}

fn unpack(lab: &Lab, data: &Path, name: &str) -> Vec<String> {
    let words = [&text(&lab.jdos), "image", "--data", &text(data), "unpack", "--quiet", name];
    words.map(str::to_owned).to_vec()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
