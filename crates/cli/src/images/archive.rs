//! `import` and `export`: images in archives.
