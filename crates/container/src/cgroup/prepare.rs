//! Making a group's directories, and what must be so before a process can join them or a limit be set.

use super::{Cgroup, CgroupError, Hierarchy, Inner, Version, ancestors, directory::Directory};
use rustix::io::Errno;
use std::{collections::BTreeSet, path::PathBuf};

/// Controllers of the unified hierarchy that every group gets, asked for or not: limits can then be set later, and there
/// is accounting.
const ALWAYS_ENABLED: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// How often a directory is tried to be made while others remove what is above it.
const ATTEMPTS: usize = 10;

/// A controller that could not be enabled on the way to a group.
#[derive(Debug)]
pub(super) struct Disabled {
    pub(super) controller: String,
    pub(super) file: PathBuf,
    pub(super) error: Errno,
}

/// Directories that were made, in their order: what is to be taken away after an error, and nothing else.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<(usize, String)>);

impl Made {
    /// Takes them away again. What somebody else uses by now stays (the folder above, in which another group was made).
    pub(super) fn remove(self, host: &Inner) {
        for (index, path) in self.0.into_iter().rev() {
            let directory = &host.hierarchies[index].directory;
            match directory.remove(&path) {
                Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => {}
                Err(error) => {
                    let path = directory.path().join(path);
                    tracing::warn!(path = %path.display(), %error, "control group not removed");
                }
            }
        }
    }
}

impl Cgroup {
    /// Makes the directories, and what must be so on the way to them.
    pub(super) fn make(&mut self, additional: &BTreeSet<String>, made: &mut Made) -> Result<(), CgroupError> {
        let host = self.host.clone();
        for (index, hierarchy) in host.hierarchies.iter().enumerate() {
            let above = handing_down(hierarchy, &self.path, additional);
            self.make_directory(index, hierarchy, made)?;
            let place = || hierarchy.directory.path().join(&self.path);
            let directory =
                hierarchy.directory.below(&self.path).map_err(|error| CgroupError::io("open", place(), error))?;
            match hierarchy.version {
                Version::V1 if hierarchy.has("cpuset") => initialise_cpuset(hierarchy, &self.path, &directory)?,
                Version::V1 => {}
                // The one above is still there, so it is in that one that the group was made.
                Version::V2 if above.is_some_and(|above| above.has("cgroup.procs")) => {}
                Version::V2 => self.disabled = enable_controllers(hierarchy, &self.path, &directory, additional)?,
            }
            self.directories.push(Some(directory));
        }
        Ok(())
    }

    fn make_directory(&self, index: usize, hierarchy: &Hierarchy, made: &mut Made) -> Result<(), CgroupError> {
        let mut make = |path: &str| {
            let result = hierarchy.directory.make(path);
            if result.is_ok() {
                made.0.push((index, path.to_owned()));
            }
            result
        };
        let wrong = |path: &str, error: Errno| {
            CgroupError::io("make control group", hierarchy.directory.path().join(path), error)
        };
        // The folders above are nearly always there, so they are made on demand; the attempts are for those who remove
        // them, or the leftover, at the same time.
        let mut result = Err(Errno::NOENT);
        for _ in 0..ATTEMPTS {
            result = make(&self.path);
            match result {
                Err(Errno::NOENT) => {
                    for ancestor in ancestors(&self.path) {
                        match make(ancestor) {
                            // Gone again: the next attempt starts at the top.
                            Ok(()) | Err(Errno::EXIST | Errno::NOENT) => {}
                            Err(error) => return Err(wrong(ancestor, error)),
                        }
                    }
                }
                Err(Errno::EXIST) => self.remove_leftover(hierarchy)?,
                _ => break,
            }
        }
        result.map_err(|error| wrong(&self.path, error))
    }
}

/// v1: a new cpuset has neither cores nor memory, and nobody can join it. The folders above get what their own parent has,
/// and the mark that what is made in them starts like they do (`clone_children`), so that this is done once only.
fn initialise_cpuset(hierarchy: &Hierarchy, path: &str, directory: &Directory) -> Result<(), CgroupError> {
    const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let read = |directory: &Directory, file: &str| {
        directory.read(file).map_err(|error| CgroupError::io("read", directory.path().join(file), error))
    };
    if !read(directory, "cpuset.mems")?.trim().is_empty() {
        return Ok(());
    }
    let open = |path: &str| {
        let place = || hierarchy.directory.path().join(path);
        hierarchy.directory.below(path).map_err(|error| CgroupError::io("open", place(), error))
    };
    let mut above: Option<Directory> = None;
    for (path, is_last) in ancestors(path).map(|path| (path, false)).chain([(path, true)]) {
        let here = open(path)?;
        let write = |file: &str, value: &str| {
            let place = || here.path().join(file);
            here.write(file, value).map_err(|error| CgroupError::io("write", place(), error))
        };
        for file in FILES {
            if read(&here, file)?.trim().is_empty() {
                write(file, read(above.as_ref().unwrap_or(&hierarchy.directory), file)?.trim())?;
            }
        }
        if !is_last {
            write("cgroup.clone_children", "1")?;
        }
        above = Some(here);
    }
    Ok(())
}

/// The controllers of the unified hierarchy that a group is to have.
fn wanted<'a>(hierarchy: &'a Hierarchy, additional: &'a BTreeSet<String>) -> impl Iterator<Item = &'a String> {
    let is_wanted = |name: &&String| ALWAYS_ENABLED.contains(&name.as_str()) || additional.contains(*name);
    hierarchy.controllers.iter().filter(is_wanted)
}

/// v2: the group right above, if it hands down all that is wanted already. What is made in it from now on has the files of
/// all these controllers: the kernel makes groups and enables controllers one after another.
///
/// In a group that was made before, a controller shows in `cgroup.controllers` a moment before its files do, while somebody
/// else enables it.
fn handing_down(hierarchy: &Hierarchy, path: &str, additional: &BTreeSet<String>) -> Option<Directory> {
    if hierarchy.version == Version::V1 {
        return None;
    }
    let above = hierarchy.directory.below(parent(path)).ok()?;
    let handed_down = above.read("cgroup.subtree_control").ok()?;
    let has = |name: &String| handed_down.split_ascii_whitespace().any(|one| one == name);
    wanted(hierarchy, additional).all(has).then_some(above)
}

/// The group right above.
fn parent(path: &str) -> &str {
    ancestors(path).next_back().unwrap_or(".")
}

/// v2: a controller is in a group when all groups above it hand it down. Gives those that could not be enabled; that is an
/// error only for a limit that needs one.
fn enable_controllers(
    hierarchy: &Hierarchy,
    path: &str,
    directory: &Directory,
    additional: &BTreeSet<String>,
) -> Result<Vec<Disabled>, CgroupError> {
    let read = |directory: &Directory, file: &str| -> Result<BTreeSet<String>, CgroupError> {
        let text = directory.read(file).map_err(|error| CgroupError::io("read", directory.path().join(file), error))?;
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    };
    // Enabling what is enabled changes nothing, and returns when whoever has just enabled it is done with all files.
    let wait_for_files = || {
        let above = hierarchy.directory.below(parent(path));
        let handed_down = above.as_ref().map_err(|error| *error).and_then(|above| above.read("cgroup.subtree_control"));
        if let (Ok(above), Ok(handed_down)) = (above, handed_down)
            && let Some(name) = handed_down.split_ascii_whitespace().next()
            && let Err(error) = above.write("cgroup.subtree_control", &format!("+{name}"))
        {
            // A file that is missing after all is told by what needs it.
            tracing::debug!(path = %above.path().display(), %error, "no waiting for the files of controllers");
        }
    };
    let here = read(directory, "cgroup.controllers")?;
    let mut missing: Vec<_> = wanted(hierarchy, additional).filter(|name| !here.contains(*name)).cloned().collect();
    if missing.is_empty() {
        wait_for_files();
        return Ok(Vec::new());
    }
    let mut disabled = Vec::new();
    let mut below = Vec::new();
    for ancestor in ancestors(path) {
        let place = || hierarchy.directory.path().join(ancestor);
        below.push(hierarchy.directory.below(ancestor).map_err(|error| CgroupError::io("open", place(), error))?);
    }
    for above in std::iter::once(&hierarchy.directory).chain(&below) {
        let handed_down = read(above, "cgroup.subtree_control")?;
        // A group with processes of its own would take controllers that count threads (cpu, pids), and the groups below
        // it could then hold no process at all. The true root, which has no type, is free of this.
        if !missing.iter().all(|name| handed_down.contains(name))
            && above.has("cgroup.type")
            && !read(above, "cgroup.procs")?.is_empty()
        {
            let file = above.path().join("cgroup.subtree_control");
            let (kept, refused) = missing.into_iter().partition(|name| handed_down.contains(name));
            missing = kept;
            disabled.extend(refused.into_iter().map(|controller: String| Disabled {
                controller,
                file: file.clone(),
                error: Errno::BUSY,
            }));
            continue;
        }
        // One by one: a refused one would take the others of the same write with it.
        missing.retain(|name| {
            if handed_down.contains(name) {
                return true;
            }
            let result = above.write("cgroup.subtree_control", &format!("+{name}"));
            if let Err(error) = result {
                let file = above.path().join("cgroup.subtree_control");
                disabled.push(Disabled { controller: name.clone(), file, error });
            }
            result.is_ok()
        });
    }
    wait_for_files();
    if directory.read("cgroup.type").is_ok_and(|kind| kind.trim() == "domain invalid") {
        return Err(CgroupError::Threaded { path: directory.path().to_owned() });
    }
    Ok(disabled)
}
