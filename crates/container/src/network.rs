//! Bridge, veth, address leases, firewall table.
