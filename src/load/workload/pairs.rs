//! Pairs of native components: one sends, the other receives, or both take turns.

use super::{Sending, connect, plain};
use crate::load::book::{Book, Spec};
use crate::load::component::{Names, Router};
use crate::load::link::Link;
use crate::load::plan::{Lane, Pace, Plan, Reading};

/// `jidmesh load pipe`: from one component of each pair to the other.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::load) struct PipeArgs {
    /// Bytes per frame; repeat it or separate by commas for several measurements.
    #[arg(long, value_delimiter = ',', default_value = "265,1024,16384")]
    pub(in crate::load) bytes: Vec<usize>,
    /// Pairs of components: twice as many links.
    #[arg(long, default_value_t = 1)]
    pub(in crate::load) pairs: usize,
    #[command(flatten)]
    pub(in crate::load) sending: Sending,
    /// The senders are XEP-0114 components.
    #[arg(long)]
    pub(in crate::load) foreign: bool,
    /// Addresses users of the receiver's domain, not its id. With several nodes it is always so, as ids are known on their
    /// own node only: what a way between nodes costs is seen against one node with this.
    #[arg(long)]
    pub(in crate::load) users: bool,
}

/// `jidmesh load ping`: there and back, twice through the router, one frame on its way for each pair.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::load) struct PingArgs {
    /// Bytes per frame; repeat it or separate by commas for several measurements.
    #[arg(long, value_delimiter = ',', default_value = "265,1024,16384")]
    pub(in crate::load) bytes: Vec<usize>,
    /// Pairs of components.
    #[arg(long, default_value_t = 1)]
    pub(in crate::load) pairs: usize,
    /// Addresses users of the receiver's domain, not its id. With several nodes it is always so, as ids are known on their
    /// own node only: what a way between nodes costs is seen against one node with this.
    #[arg(long)]
    pub(in crate::load) users: bool,
}

/// Frames of `bytes` bytes from `a1` to `b1`, `a2` to `b2`, ...
pub(in crate::load) fn pipe(args: &PipeArgs, bytes: usize, routers: &[Router]) -> Result<(Plan, Vec<Link>), String> {
    let links = connect(routers, names(args.pairs, args.foreign))?;
    let users = args.users || routers.len() > 1;
    let name = format!("pipe {bytes} B{}{}", addressed(users), text(args.pairs, &args.sending));
    let mut plan = empty(name, args.pairs);
    plan.write_bytes = args.sending.write_bytes();
    for pair in 0..args.pairs {
        let way = Way {
            users,
            ..Way::new(pair, false, args.foreign)
        };
        let there = frame(&mut plan.book, bytes, &way)?;
        plan.lanes.push(lane(pair, there));
    }
    args.sending.pace_all(&mut plan);
    Ok((plan, links))
}

/// Round trips of frames of `bytes` bytes between `a1` and `b1`, `a2` and `b2`, ...
pub(in crate::load) fn ping(args: &PingArgs, bytes: usize, routers: &[Router]) -> Result<(Plan, Vec<Link>), String> {
    let links = connect(routers, names(args.pairs, false))?;
    let users = args.users || routers.len() > 1;
    let mut plan = empty(format!("round trip {bytes} B{}", addressed(users)), args.pairs);
    plan.spin = true;
    for pair in 0..args.pairs {
        let way = Way {
            users,
            ..Way::new(pair, true, false)
        };
        let back = frame(&mut plan.book, bytes, &way)?;
        let way = Way {
            then: back..back + 1,
            users,
            ..Way::new(pair, false, false)
        };
        let there = frame(&mut plan.book, bytes, &way)?;
        plan.lanes.push(lane(pair, there));
    }
    Ok((plan, links))
}

fn addressed(users: bool) -> &'static str {
    if users { " to users" } else { "" }
}

fn text(pairs: usize, sending: &Sending) -> String {
    let mut text = String::new();
    if pairs > 1 {
        text += &format!(", {} links", 2 * pairs);
    }
    if sending.single {
        text += ", one frame a write";
    }
    if let Some(rate) = sending.rate {
        text += &format!(", {rate:.0}/s");
    }
    text
}

/// All senders, then all receivers: dealt in turn to two threads or nodes, a pair is at both when their number is odd.
fn names(pairs: usize, foreign: bool) -> Vec<Names> {
    let sm = |id: String| Names::Sm {
        domain: format!("{id}.test"),
        id,
    };
    let both = |pair| {
        let sender = match foreign {
            true => Names::Foreign {
                name: format!("a{pair}.test"),
            },
            false => sm(format!("a{pair}")),
        };
        [sender, sm(format!("b{pair}"))]
    };
    (1..=pairs).flat_map(both).collect()
}

fn empty(name: String, pairs: usize) -> Plan {
    Plan {
        name,
        book: Book::default(),
        lanes: Vec::new(),
        groups: vec!["all".into()],
        reading: vec![Reading::Always; 2 * pairs],
        write_bytes: Some(64 << 10),
        spin: false,
    }
}

fn lane(pair: usize, recipe: u32) -> Lane {
    Lane {
        link: 2 * pair,
        order: vec![recipe],
        pace: Pace::Flat { window: 1 },
        group: 0,
        lossy: false,
    }
}

/// From one component of a pair to the other.
struct Way {
    pair: usize,
    back: bool,
    foreign: bool,
    /// The route is addressed to the receiver's domain, not to its id.
    users: bool,
    then: std::ops::Range<u32>,
}

impl Way {
    fn new(pair: usize, back: bool, foreign: bool) -> Way {
        Way {
            pair,
            back,
            foreign,
            users: false,
            then: 0..0,
        }
    }
}

fn frame(book: &mut Book, bytes: usize, way: &Way) -> Result<u32, String> {
    let pair = way.pair + 1;
    let (mut source, mut dest) = (format!("a{pair}"), format!("b{pair}"));
    if way.back {
        std::mem::swap(&mut source, &mut dest);
    }
    let (from, to) = (format!("u@{source}.test"), format!("v@{dest}.test"));
    if way.users {
        dest += ".test";
    }
    let (a, b) = (2 * way.pair, 2 * way.pair + 1);
    let (source_link, dest_link) = if way.back { (b, a) } else { (a, b) };
    let tail = |book: &mut Book, body: usize| {
        book.tail("message", &format!("<body>{}</body>", "x".repeat(body)), !way.foreign)
    };
    let spec = |tail| Spec {
        route: (!way.foreign).then_some((source.as_str(), dest.as_str())),
        lane: way.pair,
        source: source_link,
        dest: dest_link,
        then: way.then.clone(),
        ..plain(("", ""), &from, &to, tail)
    };
    let mut trial = Book::default();
    let none = tail(&mut trial, 0);
    let least = {
        let then = trial.add(&Spec {
            then: 0..0,
            ..spec(none)
        });
        trial.len(then)
    };
    let body = bytes.checked_sub(least);
    let body = body.ok_or_else(|| format!("a frame between these has {least} bytes or more"))?;
    let tail = tail(book, body);
    Ok(book.add(&spec(tail)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::load::stamp::Stamp;

    #[test]
    fn frames_have_the_size_asked_for() {
        let mut book = Book::default();
        for bytes in [265, 1024, 1 << 20] {
            let recipe = frame(&mut book, bytes, &Way::new(31, false, false)).unwrap();
            assert_eq!(book.len(recipe), bytes);
        }
        assert!(frame(&mut book, 100, &Way::new(0, false, false)).is_err());
    }

    #[test]
    fn a_frame_to_a_user_is_addressed_to_his_domain_and_has_the_same_size() {
        let mut book = Book::default();
        let mut route = |users: bool| {
            let way = Way {
                users,
                ..Way::new(0, false, false)
            };
            let recipe = frame(&mut book, 265, &way).unwrap();
            assert_eq!(book.len(recipe), 265);
            let mut text = Vec::new();
            let (number, due_ns) = (0, 0);
            book.write(Stamp { recipe, number, due_ns }, &mut text);
            String::from_utf8(text).unwrap()
        };
        assert!(route(false).contains("from='a1' to='b1'>"));
        assert!(route(true).contains("from='a1' to='b1.test'>"));
    }
}
