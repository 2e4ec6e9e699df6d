//! The client end of a monitor's socket.
