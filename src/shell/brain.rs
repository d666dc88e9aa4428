//! What a shard's executor drives: the calls of [`node::Shard`](crate::node::Shard), as a trait, so that the
//! shell's own tests can put a small relay in its place.

use crate::config::Config;
use crate::mesh::conn::Local;
use crate::node::api::{Action, CloseCause, DataBatch, LinkId, Micros, ShardId};
use crate::node::cluster::Question;
use crate::node::image::{Image, Restored, Share};
use crate::node::lane::Control;
use crate::node::recovery::Notes;
use crate::node::report::ShardReport;
use crate::node::{Cargo, Shard};
use std::net::SocketAddr;
use std::sync::Arc;

/// One shard's brain, sans-IO. Every method means what the method of the same name of
/// [`Shard`] says.
#[allow(missing_docs)]
pub trait Brain: 'static {
    /// A link's state on its way to another shard.
    type Cargo: Send + 'static;
    /// A message that overtakes data of the same turn.
    type Control: Send + 'static;
    /// Frames of one turn for one shard.
    type Data: Send + 'static;

    fn opened(&mut self, now: Micros, remote: SocketAddr) -> LinkId;
    fn opened_peer(&mut self, now: Micros, remote: SocketAddr) -> LinkId;
    fn dialed(&mut self, now: Micros, link: LinkId, remote: SocketAddr);
    fn received(&mut self, now: Micros, link: LinkId, bytes: &[u8]);
    fn tls_started(&mut self, now: Micros, link: LinkId);
    fn closed(&mut self, now: Micros, link: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize);
    fn adopt(&mut self, now: Micros, cargo: Box<Self::Cargo>) -> LinkId;
    fn probed(&mut self, now: Micros, link: LinkId, alive: bool);
    fn take_output(&mut self, now: Micros, link: LinkId, into: &mut Vec<u8>);
    fn written(&mut self, now: Micros, link: LinkId, bytes: usize);
    fn take_actions(&mut self, into: &mut Vec<Action<Self::Cargo>>);
    fn take_control(&mut self, to: ShardId) -> Vec<Self::Control>;
    fn take_data(&mut self, to: ShardId) -> Option<Self::Data>;
    fn lanes(
        &mut self,
        now: Micros,
        control: &mut Vec<(ShardId, Vec<Self::Control>)>,
        data: &mut Vec<(ShardId, Self::Data)>,
    );
    fn tick(&mut self, now: Micros);
    fn deadline(&self) -> Option<Micros>;
    fn reload(&mut self, now: Micros, config: Arc<Config>);
    /// A brain that has no peers has no use for it.
    fn renew_local(&mut self, _local: &Arc<Local>) {}
    fn shutdown(&mut self, now: Micros);
    fn report(&self) -> ShardReport;
    /// A brain without an image has nothing to hand over.
    fn share<'t>(&mut self, _now: Micros, _taken: &dyn Fn(LinkId) -> (&'t [u8], usize)) -> Result<Share, String> {
        Err("there is no image of it".into())
    }
    fn restore(&mut self, _now: Micros, _image: &Image) -> Result<Vec<Restored>, String> {
        Ok(Vec::new())
    }
    fn resume(&mut self, _now: Micros) {}
    fn has_notes(&self) -> bool {
        false
    }
    fn take_notes(&mut self, _anew: bool) -> Notes {
        Notes::default()
    }
    fn unsettled(&self) -> usize {
        0
    }
    /// Answered by [`Action::Answer`] of this ticket. A brain that is never asked has nothing to say.
    fn inquire(&mut self, _now: Micros, _ticket: u64, _question: Question) {}
}

impl Brain for Shard {
    type Cargo = Cargo;
    type Control = Control;
    type Data = DataBatch;

    fn opened(&mut self, now: Micros, remote: SocketAddr) -> LinkId {
        Shard::opened(self, now, remote)
    }
    fn opened_peer(&mut self, now: Micros, remote: SocketAddr) -> LinkId {
        Shard::opened_peer(self, now, remote)
    }
    fn dialed(&mut self, now: Micros, link: LinkId, remote: SocketAddr) {
        Shard::dialed(self, now, link, remote);
    }
    fn received(&mut self, now: Micros, link: LinkId, bytes: &[u8]) {
        Shard::received(self, now, link, bytes);
    }
    fn tls_started(&mut self, now: Micros, link: LinkId) {
        Shard::tls_started(self, now, link);
    }
    fn closed(&mut self, now: Micros, link: LinkId, cause: CloseCause, unsent: Vec<u8>, written: usize) {
        Shard::closed(self, now, link, cause, unsent, written);
    }
    fn adopt(&mut self, now: Micros, cargo: Box<Cargo>) -> LinkId {
        Shard::adopt(self, now, cargo)
    }
    fn probed(&mut self, now: Micros, link: LinkId, alive: bool) {
        Shard::probed(self, now, link, alive);
    }
    fn take_output(&mut self, now: Micros, link: LinkId, into: &mut Vec<u8>) {
        Shard::take_output(self, now, link, into);
    }
    fn written(&mut self, now: Micros, link: LinkId, bytes: usize) {
        Shard::written(self, now, link, bytes);
    }
    fn take_actions(&mut self, into: &mut Vec<Action>) {
        Shard::take_actions(self, into);
    }
    fn take_control(&mut self, to: ShardId) -> Vec<Control> {
        Shard::take_control(self, to)
    }
    fn take_data(&mut self, to: ShardId) -> Option<DataBatch> {
        Shard::take_data(self, to)
    }
    fn lanes(&mut self, now: Micros, control: &mut Vec<(ShardId, Vec<Control>)>, data: &mut Vec<(ShardId, DataBatch)>) {
        Shard::lanes(self, now, control, data);
    }
    fn tick(&mut self, now: Micros) {
        Shard::tick(self, now);
    }
    fn deadline(&self) -> Option<Micros> {
        Shard::deadline(self)
    }
    fn reload(&mut self, now: Micros, config: Arc<Config>) {
        Shard::reload(self, now, config);
    }
    fn renew_local(&mut self, local: &Arc<Local>) {
        Shard::renew_local(self, local);
    }
    fn shutdown(&mut self, now: Micros) {
        Shard::shutdown(self, now);
    }
    fn report(&self) -> ShardReport {
        Shard::report(self)
    }
    fn share<'t>(&mut self, now: Micros, taken: &dyn Fn(LinkId) -> (&'t [u8], usize)) -> Result<Share, String> {
        Shard::share(self, now, taken)
    }
    fn restore(&mut self, now: Micros, image: &Image) -> Result<Vec<Restored>, String> {
        Shard::restore(self, now, image)
    }
    fn resume(&mut self, now: Micros) {
        Shard::resume(self, now);
    }
    fn has_notes(&self) -> bool {
        Shard::has_notes(self)
    }
    fn take_notes(&mut self, anew: bool) -> Notes {
        Shard::take_notes(self, anew)
    }
    fn unsettled(&self) -> usize {
        Shard::unsettled(self)
    }
    fn inquire(&mut self, now: Micros, ticket: u64, question: Question) {
        Shard::inquire(self, now, ticket, question);
    }
}
