//! OCI layouts: reading one, and one with a layer more.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ring::digest::{self, Context as Hash, SHA256};
use serde_json::{Value, json};

use crate::run;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A folder with the layout of one image.
#[derive(Clone)]
pub struct Layout {
    folder: PathBuf,
    manifest: Value,
}

impl Layout {
    /// Reads one of one image for one platform.
    ///
    /// # Errors
    /// It is not one.
    pub fn read(folder: &Path) -> Result<Self> {
        let index = json_of(&folder.join("index.json"))?;
        let digest = index["manifests"][0]["digest"].as_str().context("the layout has no manifest")?;
        let manifest = json_of(&blob(folder, digest))?;
        ensure!(manifest["layers"].is_array(), "{} is not the layout of one image", folder.display());
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Files of the layers, bottom first.
    pub fn layers(&self) -> Vec<PathBuf> {
        let layers = self.manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        layers.iter().filter_map(|layer| Some(blob(&self.folder, layer["digest"].as_str()?))).collect()
    }

    /// Bytes of the layers as they are.
    ///
    /// # Errors
    /// One is missing.
    pub fn size(&self) -> Result<u64> {
        self.layers().iter().map(|path| Ok(fs::metadata(path)?.len())).sum()
    }

    /// Bytes of the layers unpacked.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn plain_size(&self) -> Result<u64> {
        let sizes = self.layers().into_iter().map(|path| {
            let script = "zstd -dcq \"$0\" | wc -c";
            let text = run::quiet(Command::new("sh").args(["-c", script]).arg(&path))?;
            text.trim().parse::<u64>().with_context(|| format!("cannot measure {}", path.display()))
        });
        sizes.sum()
    }

    /// A layout of an image with the same layers and one more, of `layer`, an uncompressed tar.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn with(&self, layer: &[u8], folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256")).with_context(|| format!("cannot make {}", folder.display()))?;
        for path in self.layers() {
            let to = folder.join("blobs/sha256").join(path.file_name().unwrap_or_default());
            fs::hard_link(&path, &to).with_context(|| format!("cannot link {}", to.display()))?;
        }
        let config = self.manifest["config"]["digest"].as_str().context("the manifest has no configuration")?;
        let mut config = json_of(&blob(&self.folder, config))?;
        let added = put(folder, layer)?;
        let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().context("the configuration has no layers")?;
        diff_ids.push(added["digest"].clone());
        config["history"] = json!([]);
        let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": self.manifest["layers"]});
        manifest["config"] = put(folder, &serde_json::to_vec(&config)?)?;
        manifest["config"]["mediaType"] = self.manifest["config"]["mediaType"].clone();
        let mut added = added;
        added["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        manifest["layers"].as_array_mut().context("the manifest has no layers")?.push(added);
        let mut descriptor = put(folder, &serde_json::to_vec(&manifest)?)?;
        descriptor["mediaType"] = MANIFEST.into();
        let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
        write(&folder.join("index.json"), &serde_json::to_vec(&index)?)?;
        write(&folder.join("oci-layout"), b"{\"imageLayoutVersion\":\"1.0.0\"}")?;
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }
}

/// `sha256:` and the hash of these bytes.
pub fn digest(bytes: &[u8]) -> String {
    spelled(digest::digest(&SHA256, bytes).as_ref())
}

/// The same of a file.
///
/// # Errors
/// It cannot be read.
pub fn digest_of(path: &Path) -> Result<String> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let (mut hash, mut buffer) = (Hash::new(&SHA256), vec![0; 1 << 20]);
    loop {
        match reader.read(&mut buffer).with_context(|| format!("cannot read {}", path.display()))? {
            0 => return Ok(spelled(hash.finish().as_ref())),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn spelled(hash: &[u8]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn blob(folder: &Path, digest: &str) -> PathBuf {
    folder.join("blobs").join(digest.replace(':', "/"))
}

fn put(folder: &Path, bytes: &[u8]) -> Result<Value> {
    let digest = digest(bytes);
    write(&blob(folder, &digest), bytes)?;
    Ok(json!({"digest": digest, "size": bytes.len()}))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn json_of(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Layout, digest, put, write};
    use serde_json::json;

    #[test]
    fn a_layer_more() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("base");
        std::fs::create_dir_all(base.join("blobs/sha256")).expect("made");
        let layer = put(&base, b"one").expect("written");
        let config = put(&base, br#"{"rootfs":{"type":"layers","diff_ids":["sha256:a"]}}"#).expect("written");
        let manifest = json!({"config": config, "layers": [layer]});
        let manifest = put(&base, &serde_json::to_vec(&manifest).expect("json")).expect("written");
        let index = json!({"manifests": [manifest]});
        write(&base.join("index.json"), &serde_json::to_vec(&index).expect("json")).expect("written");
        let base = Layout::read(&base).expect("a layout");
        let second = base.with(b"two", &folder.path().join("second")).expect("written");
        let again = Layout::read(second.folder()).expect("a layout");
        assert_eq!(again.layers().len(), 2);
        assert_eq!(again.size().expect("there"), 6);
        assert_eq!(digest(b"abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(super::digest_of(&again.layers()[1]).expect("read"), digest(b"two"));
    }
}
