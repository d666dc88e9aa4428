//! What runs while the story is told: machines, devices that log in and stay logged in, messages on their way.

use super::DOMAIN;
use super::client::{Client, Event};
use super::machine::Machine;
use super::talk::Talk;
use crate::shell::Signals;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often everything is looked at; times are told to this.
const TURN: Duration = Duration::from_millis(2);
/// A login that is not done after so long is begun again.
const LOGIN_LIMIT: Duration = Duration::from_secs(2);
/// A device that was refused tries again after this.
const RETRY: Duration = Duration::from_millis(100);

/// Why the story ends early.
#[derive(Debug)]
pub(super) enum Stop {
    /// Ctrl-C, or another signal to end.
    Interrupted,
    /// In words.
    Failed(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Stop {
        Stop::Failed(why)
    }
}

/// A device of a user, by number in [`World::devices`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceId(pub(super) usize);

#[derive(Debug)]
struct Device {
    user: &'static str,
    resource: &'static str,
    /// The machine that it is, or wants to be, connected to.
    wanted: Option<usize>,
    client: Option<Client>,
    /// When the login began, or the next one may.
    at: Instant,
    /// Why its last connection ended.
    refused: String,
    /// Whom it sees, by full JID.
    sees: BTreeMap<String, bool>,
}

impl Device {
    fn is_as_wanted(&self) -> bool {
        self.wanted.is_none() || self.client.as_ref().is_some_and(Client::is_online)
    }
}

/// Numbered messages that a device sends at a steady rate.
#[derive(Debug)]
struct Flow {
    talk: usize,
    from: DeviceId,
    to: &'static str,
    every: Duration,
    next: Instant,
}

pub(super) struct World {
    begun: Instant,
    signals: Signals,
    pub(super) machines: [Machine; 2],
    devices: Vec<Device>,
    pub(super) talks: Vec<Talk>,
    flows: Vec<Flow>,
    events: Vec<Event>,
}

impl World {
    pub(super) fn new(begun: Instant, signals: Signals, machines: [Machine; 2]) -> World {
        World {
            begun,
            signals,
            machines,
            devices: Vec::new(),
            talks: Vec::new(),
            flows: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A line of the story, with its time.
    pub(super) fn tell(&self, text: &str) {
        println!("{:>7.2} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    /// A device that is switched off.
    pub(super) fn device(&mut self, user: &'static str, resource: &'static str) -> DeviceId {
        self.devices.push(Device {
            user,
            resource,
            wanted: None,
            client: None,
            at: Instant::now(),
            refused: String::new(),
            sees: BTreeMap::new(),
        });
        DeviceId(self.devices.len() - 1)
    }

    /// The device connects to a machine, and does so again whenever it is refused or cut off.
    pub(super) fn go(&mut self, device: DeviceId, machine: usize) {
        self.devices[device.0].wanted = Some(machine);
    }

    /// The device takes its leave in order.
    pub(super) fn leave(&mut self, device: DeviceId) -> Result<(), Stop> {
        let this = &mut self.devices[device.0];
        this.wanted = None;
        if let Some(client) = &mut this.client {
            client.leave();
        }
        self.until("a device's farewell is taken", 5, |world| {
            world.devices[device.0].client.is_none()
        })
    }

    /// The device is switched off when its connection is lost, instead of connecting again.
    pub(super) fn stay_away(&mut self, device: DeviceId) {
        self.devices[device.0].wanted = None;
    }

    /// The device is logged in.
    pub(super) fn is_online(&self, device: DeviceId) -> bool {
        self.devices[device.0].client.as_ref().is_some_and(Client::is_online)
    }

    /// The device has a connection.
    pub(super) fn is_connected(&self, device: DeviceId) -> bool {
        self.devices[device.0].client.is_some()
    }

    /// Whether the first device sees a device of the second's user.
    pub(super) fn sees(&self, observer: DeviceId, other: DeviceId) -> bool {
        let other = &self.devices[other.0];
        let jid = format!("{}@{DOMAIN}/{}", other.user, other.resource);
        self.devices[observer.0].sees.get(&jid).copied().unwrap_or(false)
    }

    /// The device sends messages of a new talk to a user from now on.
    pub(super) fn flow(&mut self, talk: Talk, from: DeviceId, to: &'static str, every_ms: u64) -> usize {
        self.talks.push(talk);
        let talk = self.talks.len() - 1;
        self.flows.push(Flow {
            talk,
            from,
            to,
            every: Duration::from_millis(every_ms),
            next: Instant::now(),
        });
        talk
    }

    /// No more messages are sent; all that were have arrived, or it is too late for them.
    pub(super) fn end_flows(&mut self) -> Result<(), Stop> {
        let ended: Vec<usize> = self.flows.drain(..).map(|flow| flow.talk).collect();
        let all_came = |world: &World| ended.iter().all(|talk| world.talks[*talk].last_came());
        match self.within(10, all_came)? {
            true => Ok(()),
            // The table says what is missing.
            false => {
                self.tell("some of the last messages have not arrived within 10 s");
                Ok(())
            }
        }
    }

    /// Lets everything go on for a while.
    pub(super) fn wait_ms(&mut self, ms: u64) -> Result<(), Stop> {
        let end = Instant::now() + Duration::from_millis(ms);
        while Instant::now() < end {
            self.turn()?;
        }
        Ok(())
    }

    /// Lets everything go on until it is so; an error that names it after `limit_s`.
    pub(super) fn until(&mut self, what: &str, limit_s: u64, is_so: impl Fn(&World) -> bool) -> Result<(), Stop> {
        if self.within(limit_s, is_so)? {
            return Ok(());
        }
        let mut text = format!("not within {limit_s} s: {what}.\n");
        for device in self.devices.iter().filter(|device| !device.is_as_wanted()) {
            text.push_str(&format!("{} is not logged in: {}\n", device.user, device.refused));
        }
        text.push_str(&super::talk::table(&self.talks));
        text.extend(self.machines.iter().map(Machine::logs));
        Err(Stop::Failed(text))
    }

    fn within(&mut self, limit_s: u64, is_so: impl Fn(&World) -> bool) -> Result<bool, Stop> {
        let end = Instant::now() + Duration::from_secs(limit_s);
        while !is_so(self) {
            if Instant::now() > end {
                return Ok(false);
            }
            self.turn()?;
        }
        Ok(true)
    }

    /// All devices of the story go offline.
    pub(super) fn switch_off(&mut self) {
        self.devices.clear();
    }

    /// Goes on until it is ended, or something fails.
    pub(super) fn run(&mut self) -> Stop {
        loop {
            if let Err(stop) = self.wait_ms(1_000) {
                return stop;
            }
        }
    }

    fn turn(&mut self) -> Result<(), Stop> {
        if self.signals.wait(0).is_some() {
            return Err(Stop::Interrupted);
        }
        if let Some(why) = self.machines.iter_mut().find_map(Machine::ended) {
            return Err(Stop::Failed(why));
        }
        for at in 0..self.devices.len() {
            self.attend(at);
        }
        self.send_due();
        std::thread::sleep(TURN);
        Ok(())
    }

    /// A device's connection: made, read, given up.
    fn attend(&mut self, at: usize) {
        let now = Instant::now();
        let device = &mut self.devices[at];
        let Some(client) = &mut device.client else {
            if let Some(machine) = device.wanted.filter(|_| now >= device.at) {
                device.client = Client::connect(self.machines[machine].clients, device.user, device.resource).ok();
                device.at = if device.client.is_some() { now } else { now + RETRY };
                device.sees.clear();
            }
            return;
        };
        client.poll(&mut self.events);
        let stuck = !client.is_online() && now > device.at + LOGIN_LIMIT;
        for event in self.events.drain(..) {
            match event {
                Event::Message(text) => self.talks.iter_mut().for_each(|talk| talk.note(&text)),
                Event::Presence(who, there) => drop(device.sees.insert(who, there)),
                Event::Closed(why) => {
                    device.refused = why;
                    device.client = None;
                }
                Event::Online => {}
            }
        }
        if stuck {
            device.refused = "the login was not answered".into();
            device.client = None;
        }
        if device.client.is_none() {
            device.at = now + RETRY;
        }
    }

    fn send_due(&mut self) {
        let now = Instant::now();
        for flow in self.flows.iter_mut().filter(|flow| now >= flow.next) {
            let Some(client) = self.devices[flow.from.0]
                .client
                .as_mut()
                .filter(|client| client.is_online())
            else {
                continue;
            };
            client.say(flow.to, &self.talks[flow.talk].next());
            flow.next = now + flow.every;
        }
    }
}
