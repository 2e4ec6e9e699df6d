//! Limits and accounting: cgroup v1, hybrid and v2.
