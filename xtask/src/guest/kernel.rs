//! Debian's cloud kernel, taken out of its package without installing it, and its modules in the order they load.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::debian;

/// The package that always stands for the suite's current kernel.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub struct Kernel {
    /// The image QEMU loads.
    pub image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// A module to load.
pub struct Module {
    /// Its name with underscores.
    pub name: String,
    /// As the kernel loads it, uncompressed.
    pub content: Vec<u8>,
}

impl Kernel {
    /// Fetches the kernel into `folder`, once, also when several ask for it at the same time.
    ///
    /// # Errors
    /// The package cannot be had, or does not hold what a kernel package holds.
    pub fn fetch(folder: &Path) -> Result<Self> {
        static ONE: Mutex<()> = Mutex::new(());
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (content, name) = debian::unpack(PACKAGE, folder)?;
        drop(one);
        let boot = content.join("boot");
        let image = list(&boot)?.into_iter().find(|path| stem(path).starts_with("vmlinuz-"));
        let image = image.with_context(|| format!("{name} holds no kernel in {}", boot.display()))?;
        // `lib` in Debian 12, `usr/lib` since.
        let homes = ["lib/modules", "usr/lib/modules"].map(|path| content.join(path));
        let home = homes.iter().find(|path| path.is_dir()).with_context(|| format!("{name} holds no modules"))?;
        let home = list(home)?.pop().with_context(|| format!("{name} holds no modules"))?;
        let mut modules = BTreeMap::new();
        walk(&home.join("kernel"), &mut modules)?;
        let builtin =
            fs::read_to_string(home.join("modules.builtin")).context("cannot read the list of built-in modules")?;
        let builtin = builtin.lines().map(|line| stem(Path::new(line))).collect();
        Ok(Self { image, modules, builtin })
    }

    /// The modules asked for and what they depend on, in the order they must load; what is built in is left out.
    ///
    /// # Errors
    /// The kernel does not know a module.
    pub fn closure(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut order = Vec::new();
        for name in names {
            self.visit(name, &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<Module>) -> Result<()> {
        let name = name.replace('-', "_");
        if self.builtin.contains(&name) || order.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let Some(path) = self.modules.get(&name) else { bail!("this kernel has no module {name}") };
        let content = unpacked(path)?;
        for other in depends(&content) {
            self.visit(&other, order)?;
        }
        order.push(Module { name, content });
        Ok(())
    }
}

/// A module's file, uncompressed.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|ending| ending == "xz") {
        let output = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output();
        let output = output.with_context(|| format!("cannot run xz on {}", path.display()))?;
        ensure!(output.status.success(), "xz cannot unpack {}", path.display());
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// What a module says it needs, in its `.modinfo`: zero-ended `key=value` strings.
fn depends(content: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = content.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = &content[start + key.len()..];
    let value = &value[..value.iter().position(|byte| *byte == 0).unwrap_or(0)];
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// A module's name: the file's, up to `.ko`, with underscores.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split(".ko").next().unwrap_or_default().replace('-', if name.starts_with("vmlinuz") { "-" } else { "_" })
}

fn walk(folder: &Path, modules: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in list(folder)? {
        if path.is_dir() {
            walk(&path, modules)?;
        } else if path.to_string_lossy().contains(".ko") {
            modules.insert(stem(&path), path);
        }
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>();
    if let Ok(paths) = &mut paths {
        paths.sort();
    }
    paths.with_context(|| format!("cannot list {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::{Kernel, depends, stem};
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    #[test]
    fn names_and_dependencies() {
        assert_eq!(stem(Path::new("kernel/net/nf-tables.ko.xz")), "nf_tables");
        assert_eq!(stem(Path::new("boot/vmlinuz-6.1.0-1-cloud-amd64")), "vmlinuz-6.1.0-1-cloud-amd64");
        assert_eq!(depends(b"x\0license=GPL\0depends=nfnetlink,libcrc32c\0intree=Y\0"), ["nfnetlink", "libcrc32c"]);
        assert!(depends(b"x\0depends=\0y").is_empty() && depends(b"none").is_empty());
    }

    #[test]
    fn dependencies_load_first_and_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let module = |name: &str, needs: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("\0depends={needs}\0")).expect("writes");
            (name.to_owned(), path)
        };
        let kernel = Kernel {
            image: "vmlinuz".into(),
            modules: BTreeMap::from([module("a", "b,c"), module("b", "c"), module("c", "built-in")]),
            builtin: BTreeSet::from(["built_in".to_owned()]),
        };
        let order: Vec<_> =
            kernel.closure(&["a", "c", "built_in"]).expect("known").into_iter().map(|module| module.name).collect();
        assert_eq!(order, ["c", "b", "a"]);
        let error = kernel.closure(&["gone"]).err().expect("unknown");
        assert!(error.to_string().contains("gone"));
    }
}
