//! The file for a start after a crash ([`node::recovery`](crate::node::recovery)): one thread writes it, behind the traffic.
//!
//! The thread sleeps until a shard has something, waits [`PAUSE`], and asks the shards for what changed. It asks again only
//! when that is written, so a slow disk makes the file late and nothing else. A file that has grown to twice what it
//! began with is written anew, without what is out of date, and put in the old one's place. Nothing is synced: what the kernel
//! has outlives the process, and a machine that goes down takes the components along.

use super::control::Control;
use super::journal::line;
use super::takeover::Giver;
use crate::node::api::{Level, Micros, ShardId};
use crate::node::image::Image;
use crate::node::recovery::{Notes, head};
use crate::table::image::records;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Between the first change and its writing: what changes meanwhile goes along.
const PAUSE: Duration = Duration::from_millis(20);
/// How often the file shows that the process lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// A file without a sign of life for so long is of no use: components have given up, or have been elsewhere meanwhile.
const AGE_MAX: Duration = Duration::from_secs(60);
/// After an error the file is tried again.
const RETRY: Duration = Duration::from_secs(60);
/// How long the shards may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// A file may grow by so much before it is written anew, bytes.
const SPARE_BYTES: u64 = 4 << 20;
/// A longer file is none of ours, bytes.
const FILE_BYTES_MAX: u64 = 8 << 30;
/// Of the file: it names users.
const MODE: u32 = 0o600;

/// Names the time since the machine started.
fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| "unknown".into(), |id| id.trim().to_owned())
}

/// What a process that died left behind: `Ok(None)` when it left nothing.
pub(super) fn left_behind(path: &Path, own: &str, shards: ShardId, until: Micros) -> Result<Option<Image>, String> {
    let useless = |why: &str| format!("{}: {why}: sessions from before are not taken over", path.display());
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(useless(&error.to_string())),
    };
    let found = file.metadata().map_err(|error| useless(&error.to_string()))?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.len() > FILE_BYTES_MAX {
        return Err(useless("it is none of this process's files"));
    }
    let age = found
        .modified()
        .ok()
        .and_then(|at| SystemTime::now().duration_since(at).ok());
    if let Some(age) = age.filter(|age| *age > AGE_MAX) {
        return Err(useless(&format!("it is {} s old", age.as_secs())));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)
        .map_err(|error| useless(&error.to_string()))?;
    let records = bytes
        .strip_prefix(head(own, &boot()).as_bytes())
        .ok_or_else(|| useless("it is of another version, another router or another start of the machine"))?;
    let image = Image::recovered(records, shards, until).map_err(|why| useless(&why))?;
    Ok(Some(image))
}

/// Writes the file while the process lives.
pub(super) struct Recorder {
    path: PathBuf,
    thread: Option<JoinHandle<()>>,
    stop: Option<Sender<()>>,
}

impl Recorder {
    /// Begins a file with all that the shards have now.
    pub(super) fn start(path: PathBuf, giver: &Arc<Giver>) -> Recorder {
        let (stop, stopped) = bounded(0);
        let mut writer = Writer {
            head: head(&giver.own, &boot()),
            path: path.clone(),
            giver: Arc::clone(giver),
            control: giver.control.clone(),
            file: None,
        };
        let thread = std::thread::Builder::new().name("recovery".into());
        let thread = thread.spawn(move || writer.run(&stopped));
        if let Err(error) = &thread {
            let text = format!("no thread to write {}: {error}", path.display());
            giver.journal.log(line(Level::Error, text));
        }
        Recorder {
            path,
            thread: thread.ok(),
            stop: Some(stop),
        }
    }

    /// Writes no more. The file stays, for whoever it is now.
    pub(super) fn end(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // How it ended does not matter any more.
            let _ = thread.join();
        }
    }

    /// The process ends in order: its clients log in again.
    pub(super) fn end_in_order(mut self) {
        self.end();
        let _ = fs::remove_file(&self.path);
    }
}

struct Writer {
    head: String,
    path: PathBuf,
    giver: Arc<Giver>,
    control: Control,
    /// With its length, and the length it began with.
    file: Option<(File, u64, u64)>,
}

impl Writer {
    fn run(&mut self, stopped: &Receiver<()>) {
        let mut last_error = None;
        loop {
            let pause = match self.write() {
                Ok(true) => {
                    last_error = None;
                    PAUSE
                }
                Ok(false) => SIGN_OF_LIFE,
                Err(error) => {
                    self.give_up(&error.to_string(), &mut last_error);
                    RETRY
                }
            };
            if stopped.recv_timeout(pause.min(PAUSE)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            if pause > PAUSE && !self.sleep(pause, stopped) {
                return;
            }
        }
    }

    /// Until a shard has something, or so long. False when it is over.
    fn sleep(&self, at_most: Duration, stopped: &Receiver<()>) -> bool {
        let changed = self.control.noted();
        let retries = self.file.is_none();
        crossbeam_channel::select! {
            recv(stopped) -> _ => false,
            recv(if retries { crossbeam_channel::never() } else { changed.clone() }) -> _ => {
                stopped.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout)
            }
            default(at_most) => true,
        }
    }

    /// Writes what changed. True when there may be more.
    fn write(&mut self) -> io::Result<bool> {
        if self.giver.busy.load(Ordering::Acquire) {
            return Ok(true);
        }
        let Some((file, length, _)) = &mut self.file else {
            return self.begin();
        };
        let Some((records, more)) = gather(self.control.notes(ANSWER, false)) else {
            self.file = None;
            return Ok(true);
        };
        if records.is_empty() {
            file.set_modified(SystemTime::now())?;
            return Ok(more);
        }
        file.write_all(&records)?;
        *length += records.len() as u64;
        self.shorten()?;
        Ok(more)
    }

    /// A new file, in the place of whatever there is.
    fn begin(&mut self) -> io::Result<bool> {
        let (new, mut file) = self.new_file()?;
        let mut length = 0;
        let mut anew = true;
        loop {
            let Some((records, more)) = gather(self.control.notes(ANSWER, anew)) else {
                return Err(io::Error::other("the shards do not answer"));
            };
            anew = false;
            file.write_all(&records)?;
            length += records.len() as u64;
            if !more {
                break;
            }
        }
        self.put(&new, file, length)
    }

    /// Writes the file anew, without what is out of date, when it has grown that much.
    fn shorten(&mut self) -> io::Result<()> {
        let Some((_, length, began)) = &self.file else {
            return Ok(());
        };
        if *length < 2 * began + SPARE_BYTES {
            return Ok(());
        }
        let old = fs::read(&self.path)?;
        let old = old.strip_prefix(self.head.as_bytes()).unwrap_or_default();
        let last: HashMap<&str, *const u8> = records(old).map(|(whole, key, _)| (key, whole.as_ptr())).collect();
        let (new, mut file) = self.new_file()?;
        let mut kept = Vec::new();
        for (whole, key, content) in records(old) {
            if !content.is_empty() && last.get(key) == Some(&whole.as_ptr()) {
                kept.extend_from_slice(whole);
            }
        }
        file.write_all(&kept)?;
        self.put(&new, file, kept.len() as u64).map(drop)
    }

    fn new_file(&self) -> io::Result<(PathBuf, File)> {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(name);
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&new)?;
        file.write_all(self.head.as_bytes())?;
        Ok((new, file))
    }

    fn put(&mut self, new: &Path, file: File, length: u64) -> io::Result<bool> {
        if self.giver.given.load(Ordering::Acquire) {
            let _ = fs::remove_file(new);
            return Ok(false);
        }
        fs::rename(new, &self.path)?;
        self.file = Some((file, length, length));
        Ok(true)
    }

    /// Half a file is worse than none.
    fn give_up(&mut self, why: &str, last: &mut Option<String>) {
        self.file = None;
        let _ = fs::remove_file(&self.path);
        if last.as_deref() != Some(why) {
            let path = self.path.display();
            let text = format!("cannot write {path}: {why}; after a crash of jidmesh clients would log in again");
            self.giver.journal.log(line(Level::Warning, text));
            *last = Some(why.to_owned());
        }
    }
}

/// All shards' records, and whether there are more; `None` when one of them is missing, or its changes are.
fn gather((notes, all): (Vec<Notes>, bool)) -> Option<(Vec<u8>, bool)> {
    if !all || notes.iter().any(|notes| notes.lost) {
        return None;
    }
    let more = notes.iter().any(|notes| notes.more);
    Some((notes.into_iter().flat_map(|notes| notes.records).collect(), more))
}
