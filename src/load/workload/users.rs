//! Traffic between users: all logged in, a few of them active, some of those much more than others.

use super::{Sending, connect};
use crate::load::book::{Book, Spec};
use crate::load::component::{Names, Router};
use crate::load::link::Link;
use crate::load::mix::{Bare, FAN_OUT, Mix, Shape};
use crate::load::people::{DOMAIN, People};
use crate::load::plan::{Lane, Pace, Plan, Reading};
use crate::load::redirects::{self, Told};
use crate::load::rng::{Rng, Zipf};

/// Frames that are made before the run, all lanes together; then they come again.
const FRAMES: usize = 1 << 16;
/// Logins on their way at most, while the scene is set.
const LOGINS_IN_FLIGHT: u64 = 1000;

/// `jidmesh load users`: sessions of users at c2s and sm, and what these say to one another.
#[derive(clap::Args, Clone, Debug)]
pub(in crate::load) struct UsersArgs {
    /// Users who are logged in.
    #[arg(long, default_value_t = 100_000)]
    pub(in crate::load) sessions: usize,
    /// Users who say something or are spoken to.
    #[arg(long, default_value_t = 10_000)]
    pub(in crate::load) active: usize,
    /// How unequal these are (Zipf's exponent); 0: all alike.
    #[arg(long, default_value_t = 1.0)]
    pub(in crate::load) skew: f64,
    /// Simulated sm.
    #[arg(long, default_value_t = 12)]
    pub(in crate::load) sm: usize,
    /// Simulated c2s.
    #[arg(long, default_value_t = 4)]
    pub(in crate::load) c2s: usize,
    /// The whole way of a stanza, client to client: c2s to sm, sm to domain, sm to c2s. Without it only what sm send to
    /// the domain.
    #[arg(long)]
    pub(in crate::load) whole: bool,
    /// Components ask for redirects, and follow them: what is for a full JID is addressed to his sm.
    #[arg(long)]
    pub(in crate::load) redirects: bool,
    #[command(flatten)]
    pub(in crate::load) sending: Sending,
}

impl UsersArgs {
    /// The active ones are spread over the whole table.
    fn stride(&self) -> usize {
        self.sessions / self.active
    }
}

/// Connects everything and logs everybody in.
pub(in crate::load) fn users(
    args: &UsersArgs,
    routers: &[Router],
    progress: bool,
) -> Result<(Plan, Vec<Link>), String> {
    if args.active == 0 || args.active > args.sessions || args.sm == 0 || args.c2s == 0 {
        return Err("there must be an sm, a c2s, and not more active users than sessions, and one at least".into());
    }
    let asking = |router: &Router| Router {
        redirects: args.redirects,
        ..router.clone()
    };
    let routers: Vec<Router> = routers.iter().map(asking).collect();
    let (mut links, c2s) = connect_all(args.sm, args.c2s, &routers)?;
    let mut people = People::new(args.sessions, &links, &c2s);
    people.log_in_all(&mut links, LOGINS_IN_FLIGHT, progress)?;
    let mut told = Told::default();
    if args.redirects {
        let active: Vec<usize> = (0..args.active).map(|rank| rank * args.stride()).collect();
        let mut senders: Vec<usize> = active.iter().map(|user| people.home(*user)).collect();
        senders.sort_unstable();
        senders.dedup();
        told = redirects::learn(&mut links, &senders, &active)?;
    }
    Ok((plan(args, &people, &links, &told), links))
}

/// The sm first, so that they are there when the first user comes.
pub(super) fn connect_all(sm: usize, c2s: usize, routers: &[Router]) -> Result<(Vec<Link>, Vec<usize>), String> {
    let sms = (1..=sm).map(|at| Names::Sm {
        id: format!("sm{at}"),
        domain: DOMAIN.into(),
    });
    let c2ss = (1..=c2s).map(|at| Names::C2s { id: format!("c2s{at}") });
    let links = connect(routers, sms.chain(c2ss).collect())?;
    Ok((links, (sm..sm + c2s).collect()))
}

fn plan(args: &UsersArgs, people: &People, links: &[Link], told: &Told) -> Plan {
    let mut book = Book::default();
    let mix = Mix::new(&mut book);
    let mut script = Script {
        people,
        links,
        told,
        mix,
        zipf: Zipf::new(args.active, args.skew),
        rng: Rng::new(1),
        stride: args.stride(),
        book,
    };
    // Who speaks at which link.
    let mut speakers: Vec<Vec<usize>> = vec![Vec::new(); links.len()];
    for rank in 0..args.active {
        let user = rank * script.stride;
        let link = if args.whole {
            people.c2s(user)
        } else {
            people.home(user)
        };
        speakers[link].push(user);
    }
    let mut lanes: Vec<Lane> = Vec::new();
    let speaking = speakers.iter().filter(|users| !users.is_empty()).count();
    for (link, users) in speakers.iter().enumerate().filter(|(_, users)| !users.is_empty()) {
        let lane = lanes.len();
        let mut order = Vec::new();
        while order.len() < FRAMES / speaking {
            let from = users[script.rng.below(users.len())];
            if args.whole {
                script.whole(from, lane, &mut order);
            } else {
                script.routed(from, lane, &mut order);
            }
        }
        lanes.push(Lane {
            link,
            order,
            pace: Pace::Flat { window: 1 },
            group: 0,
            lossy: false,
        });
    }
    let kind = if args.whole { "client to client" } else { "user to user" };
    let redirected = if args.redirects { ", redirected" } else { "" };
    let single = if args.sending.single { ", one frame a write" } else { "" };
    let mut plan = Plan {
        name: format!(
            "{kind}, {} sessions, {} links{redirected}{single}",
            args.sessions,
            links.len()
        ),
        book: script.book,
        lanes,
        groups: vec!["all".into()],
        reading: vec![Reading::Always; links.len()],
        write_bytes: args.sending.write_bytes(),
        spin: false,
    };
    args.sending.pace_all(&mut plan);
    plan
}

/// Makes frames.
struct Script<'a> {
    people: &'a People,
    links: &'a [Link],
    told: &'a Told,
    mix: Mix,
    zipf: Zipf,
    rng: Rng,
    stride: usize,
    book: Book,
}

impl Script<'_> {
    /// What an sm sends to the domain: one frame, or one to each contact.
    fn routed(&mut self, from: usize, lane: usize, order: &mut Vec<u32>) {
        let shape = self.mix.draw(&mut self.rng).clone();
        for _ in 0..fan_out(&shape) {
            let to = self.somebody();
            let jid = self.address(&shape, to);
            order.push(self.leg_sm(&shape, from, to, &jid, lane, 0..0));
        }
    }

    /// From a client to one client, or (presence) to all contacts.
    fn whole(&mut self, from: usize, lane: usize, order: &mut Vec<u32>) {
        let shape = self.mix.draw(&mut self.rng).clone();
        let contacts: Vec<(usize, String)> = (0..fan_out(&shape))
            .map(|_| {
                let to = self.somebody();
                (to, self.address(&shape, to))
            })
            .collect();
        let deliveries: Vec<u32> = contacts
            .iter()
            .map(|(to, _)| self.leg_down(&shape, from, *to, lane))
            .collect();
        let up: Vec<u32> = contacts
            .iter()
            .zip(deliveries)
            .map(|((to, jid), down)| self.leg_sm(&shape, from, *to, jid, lane, down..down + 1))
            .collect();
        let then = up[0]..up[0] + up.len() as u32;
        let to = (shape.element != "presence").then(|| contacts[0].1.clone());
        order.push(self.leg_up(&shape, from, to.as_deref(), lane, then));
    }

    fn somebody(&mut self) -> usize {
        self.zipf.draw(&mut self.rng) * self.stride
    }

    fn address(&mut self, shape: &Shape, to: usize) -> String {
        match shape.to_bare {
            Bare::Always => People::bare(to),
            Bare::Sometimes if self.rng.below(4) == 0 => People::bare(to),
            _ => People::full(to),
        }
    }

    /// c2s to sm.
    fn leg_up(&mut self, shape: &Shape, from: usize, to: Option<&str>, lane: usize, then: std::ops::Range<u32>) -> u32 {
        let (source, dest) = (self.people.c2s(from), self.people.home(from));
        let (session, number) = (People::session(from), self.people.number(from));
        self.book.add(&Spec {
            route: Some((&self.links[source].id, &self.links[dest].id)),
            element: shape.element,
            kind: shape.kind,
            from: None,
            to,
            session: Some((&session, &number)),
            tail: shape.tail,
            lane,
            source,
            dest,
            then,
        })
    }

    /// sm to the domain, or to whom a redirect names.
    fn leg_sm(
        &mut self,
        shape: &Shape,
        from: usize,
        to: usize,
        jid: &str,
        lane: usize,
        then: std::ops::Range<u32>,
    ) -> u32 {
        let (source, dest) = (self.people.home(from), self.people.home(to));
        let sm = self.told.get(&(source, jid.to_owned())).map_or(DOMAIN, String::as_str);
        self.book.add(&Spec {
            route: Some((&self.links[source].id, sm)),
            element: shape.element,
            kind: shape.kind,
            from: Some(&People::full(from)),
            to: Some(jid),
            session: None,
            tail: shape.tail,
            lane,
            source,
            dest,
            then,
        })
    }

    /// sm to c2s.
    fn leg_down(&mut self, shape: &Shape, from: usize, to: usize, lane: usize) -> u32 {
        let (source, dest) = (self.people.home(to), self.people.c2s(to));
        let (session, number) = (People::session(to), self.people.number(to));
        self.book.add(&Spec {
            route: Some((DOMAIN, &self.links[dest].id)),
            element: shape.element,
            kind: shape.kind,
            from: Some(&People::full(from)),
            to: Some(&People::full(to)),
            session: Some((&session, &number)),
            tail: shape.tail,
            lane,
            source,
            dest,
            then: 0..0,
        })
    }
}

fn fan_out(shape: &Shape) -> usize {
    if shape.element == "presence" { FAN_OUT } else { 1 }
}
