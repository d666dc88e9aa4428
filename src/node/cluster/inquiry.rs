//! What an operator asks of the whole mesh: where a user is, and whether every pair of members reaches each other.
//!
//! Questions and answers are packets of their own kind, and go by the lanes of stanzas: from shard to home, over the
//! data lane, from home to shard, and back. This node answers itself by the same ways. Their contents are JSON: seldom,
//! small, read by programs in the end, and a reader skips what it does not know.

use super::drain::DrainAsk;
use super::message::Packet;
use super::{Lane, Place};
use crate::jid;
use crate::node::api::{Action, Micros};
use crate::node::lane::Verb;
use crate::node::placement::domain_of;
use crate::node::report::{ClosedReport, ProbeReport, WhereReport, WhereSession};
use crate::node::trace::{Sampled, TraceAsk, TraceShare, TraceTold, WayAsk};
use crate::node::{SELF, Shard};
use crate::table::{PeerId, SeatId, ShardId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What an operator asks a shard.
#[derive(Clone, Debug)]
pub enum Question {
    /// Where is this user? The shard whose slice he belongs to knows.
    Where(Box<str>),
    /// Which shards of which members answer this shard? Shard 0 asks the other members for what they see, too.
    Probe,
    /// Which links ended lately?
    Closed,
    /// Go out of service, or come back. Shard 0 answers, and tells the others.
    Drain(DrainAsk),
    /// Follow these stanzas, or tell what became of them since.
    Trace(Box<TraceAsk>),
    /// Take samples of all frames, and tell what they came to of late.
    Sample,
}

/// What a shard answers. Every question is answered, within [`ANSWER_US`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// It is another shard's to know, or too much is asked at a time.
    Nothing,
    /// Where the user is.
    Where(Box<WhereReport>),
    /// One entry for each shard that answered, and for each member of which not all did.
    Probes(Vec<ProbeReport>),
    /// Ended links, oldest first.
    Closed(Vec<Arc<ClosedReport>>),
    /// It begins, or why not.
    Drain(Result<(), String>),
    /// What happened since, or why it is not followed.
    Trace(Result<Box<TraceShare>, String>),
    /// What the samples came to.
    Sample(Box<Sampled>),
}

/// A question is answered after so long with what is known by then, microseconds.
pub const ANSWER_US: Micros = 2_500_000;
/// The same for a question to one other node, so that its answer is in time for the one who waits for more.
const NEAR_US: Micros = 1_000_000;
/// Questions under way at a shard; more are answered with nothing.
const INQUIRIES_MAX: usize = 64;
/// Most probes that one answer tells of.
const PROBES_MAX: usize = 65_536;

/// What a node asks another, or itself.
#[derive(Debug, Serialize, Deserialize)]
enum Asked {
    /// Each shard answers.
    Echo,
    /// Each shard answers with its own probes.
    Survey,
    /// The shard that has this user, by his key, answers.
    Where(String),
    /// Each shard follows these stanzas, and answers; when this was asked, by the asker's clock.
    Trace(Box<TraceAsk>, u64),
    /// A probe on its way. Nobody answers.
    Way(WayAsk),
}

/// What comes back.
#[derive(Debug, Serialize, Deserialize)]
enum Told {
    /// From this shard of so many.
    Echo {
        shard: ShardId,
        of: ShardId,
    },
    /// The same, with what it found.
    Survey {
        shard: ShardId,
        of: ShardId,
        probes: Vec<ProbeReport>,
    },
    Where(Box<WhereReport>),
    Trace(TraceTold),
}

/// Questions under way at a shard.
#[derive(Debug, Default)]
pub(in crate::node) struct Inquiries {
    serial: u64,
    open: Vec<Inquiry>,
}

#[derive(Debug)]
struct Inquiry {
    serial: u64,
    asker: Asker,
    began: Micros,
    until: Micros,
    /// Who is to answer.
    waits: Vec<Wait>,
    /// What is answered, as far as it is known.
    answer: Answer,
}

#[derive(Clone, Copy, Debug)]
enum Asker {
    /// The shell, under this ticket.
    Shell(u64),
    /// A shard of this node, or of another, under its number of the question.
    Shard(Option<PeerId>, ShardId, u64),
}

/// A member whose shards are to answer.
#[derive(Debug)]
struct Wait {
    member: Option<PeerId>,
    survey: bool,
    /// Shards that answered, and how many there are once one has.
    heard: Vec<ShardId>,
    of: Option<ShardId>,
}

impl Wait {
    fn is_over(&self) -> bool {
        self.of.is_some_and(|of| self.heard.len() >= usize::from(of))
    }
}

impl Shard {
    /// A question from the shell: [`Action::Answer`] with this ticket follows, at once or later.
    pub fn inquire(&mut self, now: Micros, ticket: u64, question: Question) {
        self.note_time(now);
        let asker = Asker::Shell(ticket);
        match question {
            Question::Where(bare) if self.owner(&bare) == self.id => self.ask_where(now, asker, &bare),
            Question::Where(_) => self.answer(now, asker, Answer::Nothing),
            Question::Probe => self.probe(now, asker, self.id == 0),
            Question::Drain(ask) if self.id == 0 => {
                let verdict = self.judge_drain(now, ask);
                self.answer(now, asker, Answer::Drain(verdict));
            }
            Question::Drain(_) => self.answer(now, asker, Answer::Nothing),
            Question::Closed => self.answer(now, asker, Answer::Closed(self.closed_links.all())),
            Question::Sample => {
                let sampled = self.sample_asked(now);
                self.answer(now, asker, Answer::Sample(sampled));
            }
            Question::Trace(ask) => {
                let share = self.trace_asked(now, None, &ask).map(Box::new);
                self.answer(now, asker, Answer::Trace(share));
            }
        }
    }

    /// What is known here of a user whom another node serves is what is answered if that node says nothing.
    fn ask_where(&mut self, now: Micros, asker: Asker, bare: &str) {
        let answer = Answer::Where(Box::new(self.report_where(bare)));
        let Place::At(peer) = self.place(bare) else {
            return self.answer(now, asker, answer);
        };
        let waits = vec![Wait {
            member: Some(peer),
            survey: false,
            heard: Vec::new(),
            of: None,
        }];
        if let Some(serial) = self.begin(now, asker, now + NEAR_US, waits, answer) {
            self.send_question(now, Some(peer), serial, &Asked::Where(bare.to_owned()));
        }
    }

    /// Asks every shard of every member, this node included, for a sign; with `far` also for what they see.
    fn probe(&mut self, now: Micros, asker: Asker, far: bool) {
        let peers = self.cluster.as_ref().map_or(0, |cluster| cluster.peers.len());
        let peers = (0..).map(PeerId).take(peers).map(Some);
        let wait = |member, survey| Wait {
            member,
            survey,
            heard: Vec::new(),
            of: None,
        };
        let near = std::iter::once(None)
            .chain(peers.clone())
            .map(|member| wait(member, false));
        let far_too = peers.filter(|_| far).map(|member| wait(member, true));
        let waits: Vec<Wait> = near.chain(far_too).collect();
        let asked: Vec<_> = waits.iter().map(|wait| (wait.member, wait.survey)).collect();
        let until = now + if far { ANSWER_US } else { NEAR_US };
        let Some(serial) = self.begin(now, asker, until, waits, Answer::Probes(Vec::new())) else {
            return;
        };
        for (member, survey) in asked {
            let question = if survey { Asked::Survey } else { Asked::Echo };
            self.send_question(now, member, serial, &question);
        }
    }

    fn begin(&mut self, now: Micros, asker: Asker, until: Micros, waits: Vec<Wait>, answer: Answer) -> Option<u64> {
        if self.inquiries.open.len() >= INQUIRIES_MAX {
            self.answer(now, asker, Answer::Nothing);
            return None;
        }
        self.inquiries.serial += 1;
        let serial = self.inquiries.serial;
        self.inquiries.open.push(Inquiry {
            serial,
            asker,
            began: now,
            until,
            waits,
            answer,
        });
        self.wake_by(until);
        Some(serial)
    }

    fn answer(&mut self, now: Micros, asker: Asker, answer: Answer) {
        match (asker, answer) {
            (Asker::Shell(ticket), answer) => self.actions.push(Action::Answer { ticket, answer }),
            (Asker::Shard(peer, shard, serial), Answer::Probes(probes)) => {
                let told = Told::Survey {
                    shard: self.id,
                    of: self.shards,
                    probes,
                };
                self.send_answer(now, peer, shard, serial, &told);
            }
            (Asker::Shard(..), _) => {}
        }
    }

    fn send_question(&mut self, now: Micros, to: Option<PeerId>, serial: u64, asked: &Asked) {
        let text = serde_json::to_vec(asked).unwrap_or_default();
        let packet = Packet::Ask {
            shard: self.id,
            serial,
            question: &text,
        };
        match to {
            None => self.inquiry_packet(now, None, &packet),
            Some(peer) => self.send_inquiry(peer, &packet),
        }
    }

    fn send_answer(&mut self, now: Micros, to: Option<PeerId>, shard: ShardId, serial: u64, told: &Told) {
        let text = serde_json::to_vec(told).unwrap_or_default();
        let packet = Packet::Answer {
            shard,
            serial,
            answer: &text,
        };
        match to {
            None => self.inquiry_packet(now, None, &packet),
            Some(peer) => self.send_inquiry(peer, &packet),
        }
    }

    /// To all shards of another node.
    pub(in crate::node) fn send_trace_ask(&mut self, now: Micros, to: PeerId, ask: &TraceAsk) {
        self.send_question(now, Some(to), 0, &Asked::Trace(Box::new(ask.clone()), now));
    }

    /// To shard 0 of the node whose operator asks.
    pub(in crate::node) fn send_trace_told(&mut self, now: Micros, to: PeerId, told: TraceTold) {
        self.send_answer(now, Some(to), 0, 0, &Told::Trace(told));
    }

    /// A probe goes on at another node, or at another shard of this one.
    pub(in crate::node) fn send_way(&mut self, now: Micros, to: PeerId, way: &WayAsk) {
        self.send_question(now, Some(to), 0, &Asked::Way(way.clone()));
    }

    pub(in crate::node) fn send_way_here(&mut self, now: Micros, way: &WayAsk) {
        self.send_question(now, None, 0, &Asked::Way(way.clone()));
    }

    /// The shard where a probe goes on.
    fn shard_of_way(&self, way: &WayAsk) -> Option<ShardId> {
        let bare = jid::bare_key(&way.jid)?;
        match way.seat {
            _ if way.outside => Some(self.exit_shard(domain_of(&bare))),
            Some(seat) => self.names.seat(SeatId::from_number(seat)).map(|view| view.home),
            None => Some(self.owner(&bare)),
        }
    }

    /// To another node, by its home.
    fn send_inquiry(&mut self, peer: PeerId, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.write(&mut bytes);
        let home = self.home_of(peer);
        if home == self.id {
            self.post(peer, Lane::Data, bytes);
        } else {
            self.data[usize::from(home)].push(Verb::Post(peer), SELF, &bytes);
        }
    }

    /// A question or answer that a peer (`None`: this node) sent: it goes to the shards that it concerns.
    pub(super) fn inquiry_packet(&mut self, now: Micros, from: Option<PeerId>, packet: &Packet<'_>) {
        let shards = match packet {
            Packet::Ask { question, .. } => match serde_json::from_slice(question) {
                Ok(Asked::Where(bare)) => self.owner(&bare)..self.owner(&bare) + 1,
                Ok(Asked::Echo | Asked::Survey | Asked::Trace(..)) => 0..self.shards,
                Ok(Asked::Way(way)) => match self.shard_of_way(&way) {
                    Some(shard) => shard..shard + 1,
                    None => return,
                },
                Err(_) => return,
            },
            Packet::Answer { shard, .. } if *shard < self.shards => *shard..*shard + 1,
            _ => return,
        };
        let mut bytes = Vec::new();
        packet.write(&mut bytes);
        for shard in shards {
            if shard == self.id {
                self.inquiry(now, from, &bytes);
            } else {
                self.data[usize::from(shard)].push(Verb::Inquiry(from), SELF, &bytes);
            }
        }
    }

    /// A question or answer that concerns this shard.
    pub(super) fn inquiry(&mut self, now: Micros, from: Option<PeerId>, bytes: &[u8]) {
        match Packet::read(bytes) {
            Some(Packet::Ask {
                shard,
                serial,
                question,
            }) => match serde_json::from_slice(question) {
                Ok(Asked::Echo) => {
                    let told = Told::Echo {
                        shard: self.id,
                        of: self.shards,
                    };
                    self.send_answer(now, from, shard, serial, &told);
                }
                Ok(Asked::Survey) => self.probe(now, Asker::Shard(from, shard, serial), false),
                Ok(Asked::Where(bare)) => {
                    let told = Told::Where(Box::new(self.report_where(&bare)));
                    self.send_answer(now, from, shard, serial, &told);
                }
                Ok(Asked::Trace(ask, sent_us)) => {
                    if let Some(by) = from
                        && let Some(told) = self.trace_asked_abroad(now, by, &ask, sent_us)
                    {
                        self.send_trace_told(now, by, told);
                    }
                }
                Ok(Asked::Way(way)) => self.way(now, way),
                Err(_) => {}
            },
            Some(Packet::Answer { serial, answer, .. }) => match (serde_json::from_slice(answer), from) {
                (Ok(Told::Trace(told)), Some(peer)) => self.trace_told(now, peer, told),
                (Ok(told), _) => self.told(now, from, serial, told),
                (Err(_), _) => {}
            },
            _ => {}
        }
    }

    fn told(&mut self, now: Micros, from: Option<PeerId>, serial: u64, told: Told) {
        let (own, name) = (self.node_name(None), self.node_name(from));
        let relay = from.and_then(|peer| self.relay_to(peer));
        let Some(at) = self.inquiries.open.iter().position(|open| open.serial == serial) else {
            return;
        };
        let inquiry = &mut self.inquiries.open[at];
        let (shard, of, survey) = match &told {
            Told::Echo { shard, of } => (*shard, *of, false),
            Told::Survey { shard, of, .. } => (*shard, *of, true),
            Told::Where(_) => (0, 1, false),
            Told::Trace(_) => return,
        };
        let wait = inquiry
            .waits
            .iter_mut()
            .find(|wait| (wait.member, wait.survey) == (from, survey));
        let Some(wait) = wait.filter(|wait| shard < of && !wait.heard.contains(&shard)) else {
            return;
        };
        wait.of = Some(of);
        wait.heard.push(shard);
        match (&mut inquiry.answer, told) {
            (Answer::Where(known), Told::Where(mut report)) => {
                // Names are this node's own matter: `id.node` is a name everywhere but at that node.
                report.holders = std::mem::take(&mut known.holders);
                *known = report;
            }
            (Answer::Probes(probes), Told::Echo { .. }) => probes.push(ProbeReport {
                from: own,
                from_shard: Some(self.id),
                to: name,
                to_shard: Some(shard),
                round_trip_us: Some(now.saturating_sub(inquiry.began)),
                relay,
            }),
            (Answer::Probes(probes), Told::Survey { probes: theirs, .. }) => {
                probes.extend(theirs);
                probes.truncate(PROBES_MAX);
            }
            _ => return,
        }
        if inquiry.waits.iter().all(Wait::is_over) {
            let inquiry = self.inquiries.open.swap_remove(at);
            self.conclude(now, inquiry);
        }
    }

    /// Answers with what is known, and says who did not answer.
    fn conclude(&mut self, now: Micros, inquiry: Inquiry) {
        let Inquiry {
            asker,
            waits,
            mut answer,
            ..
        } = inquiry;
        if let Answer::Probes(probes) = &mut answer {
            for wait in waits.iter().filter(|wait| !wait.is_over()) {
                let (own, name) = (self.node_name(None), self.node_name(wait.member));
                // Nothing is known of what a member sees that does not say so.
                probes.push(match wait.survey {
                    false => ProbeReport {
                        from: own,
                        from_shard: Some(self.id),
                        to: name,
                        ..ProbeReport::default()
                    },
                    true => ProbeReport {
                        from: name,
                        to: own,
                        ..ProbeReport::default()
                    },
                });
            }
        }
        self.answer(now, asker, answer);
    }

    /// Answers what waited long enough. True when something still waits.
    pub(in crate::node) fn tick_inquiries(&mut self, now: Micros) -> bool {
        let late: Vec<Inquiry> = self.inquiries.open.extract_if(.., |open| open.until <= now).collect();
        for inquiry in late {
            self.conclude(now, inquiry);
        }
        !self.inquiries.open.is_empty()
    }

    /// The name of a node; `None`: of this one.
    fn node_name(&self, node: Option<PeerId>) -> String {
        match (&self.cluster, node) {
            (Some(cluster), Some(peer)) => cluster.name_of(peer).to_owned(),
            (Some(cluster), None) => cluster.own.to_string(),
            (None, _) => self.config.id.clone(),
        }
    }

    /// What this shard, which owns the user, knows of him.
    fn report_where(&self, bare: &str) -> WhereReport {
        let mut report = WhereReport {
            jid: bare.to_owned(),
            holders: self.holders_of(domain_of(bare)),
            ..WhereReport::default()
        };
        if let Place::At(peer) = self.place(bare) {
            let row = self.cluster.as_ref().and_then(|cluster| cluster.rows.get(bare));
            report.node = self.node_name(Some(peer));
            report.sessions = row.map_or_else(Vec::new, |row| {
                let known = row.sessions.iter().map(|session| WhereSession {
                    resource: session.resource.to_string(),
                    available: session.available,
                    ..WhereSession::default()
                });
                known.collect()
            });
            return report;
        }
        let user = self.users.get(bare);
        report.node = self.node_name(None);
        report.complete = true;
        report.starts_pending = user
            .and_then(|user| user.flux.as_ref())
            .map_or(0, |flux| flux.starts.len() as u64);
        report.is_duty = user.is_none_or(|user| user.sm.is_none());
        let sm = user.and_then(|user| user.sm).or_else(|| self.duty(bare));
        report.sm = sm.map(|sm| self.seat_label(sm));
        let sessions = user.into_iter().flat_map(|user| &user.sessions);
        report.sessions = sessions
            .map(|session| WhereSession {
                resource: session.resource.to_string(),
                available: session.available,
                priority: Some(session.priority),
                c2s: Some(self.seat_label(session.c2s)),
            })
            .collect();
        report
    }

    /// In the order of their labels: each node has its own first, and all shall say the same.
    fn holders_of(&self, name: &str) -> Vec<String> {
        let holders = self.names.get(name).map(|(_, name)| name.holders.clone());
        let holders = holders.unwrap_or_default().into_iter();
        let mut labels: Vec<String> = holders.map(|seat| self.seat_label(seat)).collect();
        labels.sort_unstable();
        labels
    }

    /// A component as all nodes call it.
    fn seat_label(&self, seat: SeatId) -> String {
        match self.names.seat(seat) {
            Some(view) if view.peer.is_none() && self.cluster.is_some() => self.name_abroad(&view.id),
            Some(view) => view.id.to_string(),
            None => "gone".to_owned(),
        }
    }
}

/// The key under which a user is found, and the resource that was asked for, if one was.
pub fn where_key(raw: &str) -> Option<(Box<str>, Option<String>)> {
    let bare = jid::bare_key(raw)?;
    let resource = match raw.split_once('/') {
        Some((_, resource)) => Some(jid::prepared_resource(resource)?.into_owned()),
        None => None,
    };
    Some((bare.into(), resource))
}
