//! Whether there is a runc to work with, and what it can not do.

use crate::{
    options::Runc,
    spec::{Fault, SpecErrors},
};
use oci_spec::runtime::Spec;
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

const FLAG: &str = "--runtime";
/// What can be done about one that is missing.
const INSTALL: &str = "install runc 1.1 or newer (the package runc), give its path, or leave the flag out";

impl Runc {
    /// The same by absolute path, once it is seen to be runc.
    pub(crate) fn find(&self) -> Result<Self, Fault> {
        let fault = |why: String| Fault::new(FLAG, why).of(self.0.display()).hint(INSTALL);
        let found = if !self.is_path() {
            let path = env::var_os("PATH").unwrap_or_default();
            let all = env::split_paths(&path).map(|folder| folder.join(&self.0));
            let program = all.filter(|file| file.is_absolute()).find(|file| executable(file).is_ok());
            program.ok_or_else(|| fault("there is no such program in PATH".to_owned()))?
        } else {
            std::path::absolute(&self.0).map_err(|error| fault(error.to_string()))?
        };
        let found = Self(found);
        found.is_there()?;
        found.version().map_err(fault)?;
        Ok(found)
    }

    /// Whether it was given as a path.
    fn is_path(&self) -> bool {
        self.0.as_os_str().as_encoded_bytes().contains(&b'/')
    }

    /// Whether the program is still there.
    pub(crate) fn is_there(&self) -> Result<(), Fault> {
        executable(&self.0).map_err(|why| Fault::new(FLAG, why).of(self.0.display()).hint(INSTALL))
    }

    fn version(&self) -> Result<(), String> {
        let mut command = Command::new(&self.0);
        command.arg("--version").stdin(Stdio::null());
        let output = command.output().map_err(|error| format!("it can not be executed: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let first = text.lines().next().unwrap_or_default();
        match version(first) {
            Some(number) if number >= (1, 1) => Ok(()),
            Some((major, minor)) => Err(format!("it is version {major}.{minor} of runc, which is too old")),
            None => Err(format!("it is not runc: `--version` says `{}`", first.chars().take(80).collect::<String>())),
        }
    }

    /// What of a specification runc would leave out without a word.
    ///
    /// # Errors
    /// [`SpecErrors`] with all faults.
    pub(crate) fn check(spec: &Spec) -> Result<(), SpecErrors> {
        let mut faults = Vec::new();
        if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
            faults.push(Fault::new("config.json: domainname", "runc 1.1 does not set it").of(name));
        }
        if faults.is_empty() { Ok(()) } else { Err(SpecErrors(faults)) }
    }
}

fn executable(file: &Path) -> Result<(), String> {
    match fs::metadata(file) {
        Err(error) => Err(format!("it can not be used: {error}")),
        Ok(found) if !found.is_file() => Err("it is not a file".to_owned()),
        Ok(found) if found.permissions().mode() & 0o111 == 0 => Err("it is not executable".to_owned()),
        Ok(_) => Ok(()),
    }
}

/// Major and minor number of `runc version 1.1.5+ds1`.
fn version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("runc version ")?.split(|one: char| !one.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("runc version 1.1.5+ds1"), Some((1, 1)));
        assert_eq!(version("runc version 1.0.0-rc93"), Some((1, 0)));
        assert_eq!(version("runc version 2.10.0"), Some((2, 10)));
        assert_eq!(version("crun version 1.8.1"), None);
        assert_eq!(version(""), None);
    }

    #[test]
    fn what_is_no_runc_is_refused() {
        for (name, why) in [
            ("/no/such/runc", "No such file"),
            ("/etc", "not a file"),
            ("/etc/passwd", "not executable"),
            ("/bin/true", "not runc"),
            ("no-such-program", "PATH"),
        ] {
            let fault = Runc(name.into()).find().unwrap_err().to_string();
            assert!(fault.contains(why) && fault.contains(name) && fault.contains("install"), "{fault}");
        }
    }
}
