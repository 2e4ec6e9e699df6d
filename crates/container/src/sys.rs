//! The kernel calls that no safe wrapper offers, by area. The only module of this crate in which `unsafe` is allowed.
#![allow(unsafe_code)] // each block carries its SAFETY comment; everything above this module is safe code

pub mod bpf;
pub mod loopback;
pub mod mount;
pub mod network;
pub mod process;
pub mod seccomp;
