//! `--mount type=…,src=…,dst=…` in podman's syntax, as the shorter `-v` or `--tmpfs` text that says the same.

use super::{Surroundings, values};

/// The equivalent short form.
#[derive(Debug, PartialEq, Eq)]
pub enum Mount {
    /// `SOURCE:INSIDE[:OPTIONS]`
    Volume(String),
    /// `INSIDE[:OPTIONS]`
    Tmpfs(String),
}

const EXPECTED: &str = "expected type=bind|volume|tmpfs,src=…,dst=…[,ro][,…]";

/// Translates one `--mount`.
///
/// # Errors
/// A sentence that names the key at fault.
pub fn translate(text: &str, surroundings: &Surroundings<'_>) -> Result<Mount, String> {
    let mut kind = "volume"; // podman's default
    let (mut source, mut target) = (None, None);
    let mut options: Vec<String> = Vec::new();
    for part in text.split(',') {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (part, None),
        };
        let path =
            || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("`{key}` needs a value; {EXPECTED}"));
        match key {
            "type" => kind = path()?,
            "src" | "source" => source = Some(path()?),
            "dst" | "destination" | "target" => target = Some(path()?),
            "ro" | "readonly" => options.push(switch(key, value, "ro", "rw")?),
            "rw" => options.push(switch(key, value, "rw", "ro")?),
            "bind-propagation" => options.push(path()?.to_owned()),
            "bind-nonrecursive" => options.push(switch(key, value, "bind", "rbind")?),
            "nosuid" | "nodev" | "noexec" | "suid" | "dev" | "exec" if value.is_none() => options.push(key.to_owned()),
            "tmpfs-size" => options.push(format!("size={}", path()?)),
            "tmpfs-mode" => options.push(format!("mode={}", path()?)),
            "volume-opt" | "relabel" | "idmap" | "U" | "chown" | "consistency" => {
                return Err(format!("`{key}` is not supported; {EXPECTED}"));
            }
            _ => return Err(format!("`{part}` is not understood; {EXPECTED}")),
        }
    }
    let target = target.ok_or_else(|| format!("`{text}` has no dst; {EXPECTED}"))?;
    if let Some(path) = [source.unwrap_or(""), target].iter().find(|path| path.contains(':')) {
        return Err(format!("`{path}` has a colon, which paths of mounts can not have"));
    }
    let only_tmpfs = |option: &&String| option.starts_with("size=") || option.starts_with("mode=");
    if kind != "tmpfs"
        && let Some(option) = options.iter().find(only_tmpfs)
    {
        return Err(format!("tmpfs-{option} goes with type=tmpfs, not with type={kind}"));
    }
    let tail = if options.is_empty() { String::new() } else { format!(":{}", options.join(",")) };
    match (kind, source) {
        ("tmpfs", None) => Ok(Mount::Tmpfs(format!("{target}{tail}"))),
        ("tmpfs", Some(_)) => Err(format!("`{text}`: a tmpfs has no src")),
        ("bind", None) => Err(format!("`{text}` has no src; {EXPECTED}")),
        ("bind", Some(source)) => {
            Ok(Mount::Volume(format!("{}:{target}{tail}", surroundings.absolute(source).display())))
        }
        ("volume", Some(source)) if values::is_path(source) => {
            Err(format!("`{source}` is a path, not a volume's name; for a path of the host say type=bind"))
        }
        ("volume", Some(source)) => Ok(Mount::Volume(format!("{source}:{target}{tail}"))),
        ("volume", None) => Err(format!("`{text}` has no src, the volume's name; {EXPECTED}")),
        (other, _) => Err(format!("type `{other}` is not supported; {EXPECTED}")),
    }
}

/// `key`, `key=true` and `key=false`.
fn switch(key: &str, value: Option<&str>, yes: &str, no: &str) -> Result<String, String> {
    match value {
        None | Some("true" | "1") => Ok(yes.to_owned()),
        Some("false" | "0") => Ok(no.to_owned()),
        Some(other) => Err(format!("`{key}={other}`: expected true or false")),
    }
}
