//! What the shim needs to start a container.
