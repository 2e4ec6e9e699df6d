//! The stored intent of a container.
