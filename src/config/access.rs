//! `<io><access>`: who may connect, by address.

use std::net::{IpAddr, Ipv6Addr};

/// Access rules. By default everybody may connect.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Access {
    /// `<order>`.
    pub order: Order,
    /// `<allow>`.
    pub allow: Vec<Network>,
    /// `<deny>`.
    pub deny: Vec<Network>,
}

/// Which rules are looked at first; the first match decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Order {
    /// `allow,deny`: who matches nothing may connect.
    #[default]
    AllowDeny,
    /// `deny,allow`: who matches nothing may not.
    DenyAllow,
}

impl Access {
    /// Whether a connection from `ip` is accepted. An IPv4 address in IPv6 clothes counts as IPv4.
    pub fn permits(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let allowed = || self.allow.iter().any(|network| network.contains(ip));
        let denied = || self.deny.iter().any(|network| network.contains(ip));
        match self.order {
            Order::AllowDeny => allowed() || !denied(),
            Order::DenyAllow => !denied() && allowed(),
        }
    }
}

/// An address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    bits: u8,
}

impl Network {
    /// `None` if the address family has fewer than `bits` bits.
    pub fn new(addr: IpAddr, bits: u8) -> Option<Network> {
        let addr = addr.to_canonical();
        (bits <= width(addr)).then_some(Network { addr, bits })
    }

    /// Whether `ip` lies within.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.addr, ip) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                let differ = number(self.addr) ^ number(ip);
                differ.checked_shr(u32::from(width(ip) - self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
    }
}
