//! Networks on the real kernel. Each test runs again in a network and mount namespace of its own, which plays the host, so
//! that nothing of the machine's own is touched; it ends with its process. Needs root, `unshare`, `ip` and `nft`.

mod crashes;
mod host;
mod leases;
mod speed;
mod traffic;

/// A test whose body runs on a host of its own.
macro_rules! host_test {
    ($(#[$attribute:meta])* fn $name:ident($host:ident) $body:block) => {
        $(#[$attribute])*
        #[test]
        fn $name() {
            $crate::network::tests::host::run(concat!(module_path!(), "::", stringify!($name)), |$host| $body)
        }
    };
}
use host_test;
