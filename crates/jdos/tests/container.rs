//! Containers end to end: the built program against the real kernel. Needs root, `busybox-static`, `nft`, `runc`,
//! `docker-registry`, `skopeo`, `buildah`, `podman` and `openssl`.
//!
//! Every test has folders of its own and, when it passes, has left nothing on the machine (see [`machine`]).
#![allow(clippy::unwrap_used)] // helpers of tests are tests, which clippy sees in functions marked so only

#[path = "container/machine.rs"]
mod machine;

#[path = "container/attacks.rs"]
mod attacks;
#[path = "container/bundle.rs"]
mod bundle;
#[path = "container/exec.rs"]
mod exec;
#[path = "container/foreground.rs"]
mod foreground;
#[path = "container/images.rs"]
mod images;
#[path = "container/life.rs"]
mod life;
#[path = "container/limits.rs"]
mod limits;
#[path = "container/logs.rs"]
mod logs;
#[path = "container/mending.rs"]
mod mending;
#[path = "container/network.rs"]
mod network;
#[path = "container/privileges.rs"]
mod privileges;
#[path = "container/process.rs"]
mod process;
#[path = "container/refusals.rs"]
mod refusals;
#[path = "container/registry.rs"]
mod registry;
#[path = "container/runtime.rs"]
mod runtime;
#[path = "container/storage.rs"]
mod storage;
