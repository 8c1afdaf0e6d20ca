//! What the daemon asks and tells the kernel through netlink: interfaces, the next hops of backends, announced addresses.
