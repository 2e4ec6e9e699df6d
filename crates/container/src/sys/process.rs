//! Kernel calls: process.
