//! Log files of a container: format, reading, following.
