//! What is left when containers and managers die.

use super::host_test;

host_test! {
    fn teardown_leaves_the_host_as_it_was(host) {
        let before = host.kernel();
        let container = host.container("shop", "cart");
        assert_ne!(host.kernel(), before);
        drop(container);
        host.networks.teardown().unwrap();
        assert_eq!(host.kernel(), before);
    }
}

host_test! {
    fn a_flushed_table_is_made_again(host) {
        let _container = host.container("shop", "cart");
        let before = super::host::command("nft list ruleset");
        super::host::command("nft flush ruleset");
        host.networks.reconcile(&[]).unwrap();
        assert_eq!(super::host::command("nft list ruleset"), before);
    }
}
