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

    /// From `ip` (`10.1.0.0`, or `10.1.0.0/16`) and `mask` (`255.255.0.0`, or a number of bits; default: this host
    /// only). `None` if either is wrong, or the mask has holes.
    pub fn parse(ip: &str, mask: Option<&str>) -> Option<Network> {
        let (ip, mask) = match (ip.split_once('/'), mask) {
            (Some((ip, bits)), None) => (ip, Some(bits)),
            (None, mask) => (ip, mask),
            (Some(_), Some(_)) => return None,
        };
        let addr = ip.trim().parse::<IpAddr>().ok()?;
        let Some(mask) = mask.map(str::trim) else {
            return Network::new(addr, width(addr.to_canonical()));
        };
        if let Ok(bits) = mask.parse() {
            return Network::new(addr, bits);
        }
        let mask = mask
            .parse::<IpAddr>()
            .ok()
            .filter(|mask| mask.is_ipv4() == addr.is_ipv4())?;
        let ones = number(mask) << (128 - width(mask));
        let bits = ones.leading_ones();
        (ones.count_ones() == bits)
            .then(|| Network::new(addr, u8::try_from(bits).ok()?))
            .flatten()
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn net(ip: &str, mask: Option<&str>) -> Network {
        Network::parse(ip, mask).unwrap()
    }

    fn permits(access: &Access, ip: &str) -> bool {
        access.permits(ip.parse().unwrap())
    }

    #[test]
    fn order_decides_as_in_jabberd2() {
        let allow = vec![net("127.0.0.2", None)];
        let deny = vec![net("127.0.0.0", Some("255.0.0.0"))];
        let access = Access {
            order: Order::AllowDeny,
            allow: allow.clone(),
            deny: deny.clone(),
        };
        assert!(permits(&access, "127.0.0.2") && !permits(&access, "127.0.0.1") && permits(&access, "10.0.0.1"));
        let access = Access {
            order: Order::DenyAllow,
            allow: allow.clone(),
            deny,
        };
        assert!(!permits(&access, "127.0.0.2") && !permits(&access, "10.0.0.1"));
        let access = Access {
            order: Order::DenyAllow,
            allow,
            deny: Vec::new(),
        };
        assert!(permits(&access, "127.0.0.2") && !permits(&access, "127.0.0.3"));
        assert!(permits(&Access::default(), "2001:db8::1"));
    }

    #[test]
    fn networks_of_both_families() {
        let v6 = net("2001:db8::", Some("32"));
        assert!(v6.contains("2001:db8:ffff::1".parse().unwrap()) && !v6.contains("2001:db9::1".parse().unwrap()));
        assert_eq!(net("10.0.0.0/8", None), net("10.0.0.0", Some("255.0.0.0")));
        assert!(net("0.0.0.0", Some("0")).contains("192.0.2.1".parse().unwrap()));
        assert!(!net("::", Some("0")).contains("192.0.2.1".parse().unwrap()));
        let mapped = Access {
            order: Order::AllowDeny,
            allow: Vec::new(),
            deny: vec![net("192.0.2.1", None)],
        };
        assert!(!permits(&mapped, "::ffff:192.0.2.1"));
        for (ip, mask) in [
            ("x", None),
            ("10.0.0.1", Some("255.0.255.0")),
            ("10.0.0.1", Some("33")),
            ("10.0.0.0/8", Some("8")),
        ] {
            assert_eq!(Network::parse(ip, mask), None, "{ip} {mask:?}");
        }
        assert_eq!(Network::parse("10.0.0.1", Some("ffff::")), None);
    }
}
