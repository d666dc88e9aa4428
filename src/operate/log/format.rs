//! How a line looks: `2026-11-22T21:34:03.123Z [notice] [127.0.0.1, port=40712] text`, which is jabberd2's own form
//! with a time that sorts and names its zone (RFC 3339).

use super::{LogLine, MAX_LINE_BYTES};
use crate::node::api::Level;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The line for files and standard output, its newline included.
pub(super) fn file_line(at: SystemTime, line: &LogLine, into: &mut Vec<u8>) {
    let mut text = String::with_capacity(64 + line.text.len());
    rfc3339(at, &mut text);
    let _ = write!(text, " [{}] ", word(line.level));
    body(line, &mut text);
    text.push('\n');
    into.extend_from_slice(text.as_bytes());
}

/// The line for syslog (RFC 3164): priority, local time, tag. `facility` is the number of local0 to local7.
pub(super) fn syslog_line(at: SystemTime, line: &LogLine, facility: u8, tag: &str) -> Vec<u8> {
    const LOCAL0: u8 = 16;
    let severity = match line.level {
        Level::Error => 3,
        Level::Warning => 4,
        Level::Notice => 5,
        Level::Info => 6,
    };
    let priority = u32::from(LOCAL0 + facility.min(7)) * 8 + severity;
    let mut text = format!("<{priority}>");
    rfc3164(at, &mut text);
    let _ = write!(text, " {tag}[{}]: ", std::process::id());
    body(line, &mut text);
    text.into_bytes()
}

/// The line that tells of lost ones.
pub(super) fn lost(n: u64) -> LogLine {
    LogLine {
        level: Level::Warning,
        remote: None,
        text: format!("{n} log entries were lost before this line"),
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
        Level::Notice => "notice",
        Level::Info => "info",
    }
}

fn body(line: &LogLine, into: &mut String) {
    if let Some(remote) = line.remote {
        address(remote, into);
    }
    // What components call themselves is quoted in lines: it must not be able to forge one, or to write to a terminal.
    let room = into.len() + MAX_LINE_BYTES;
    for c in line.text.chars() {
        if into.len() >= room {
            into.push_str("...");
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
            let _ = write!(into, "\\u{{{:x}}}", c as u32);
        } else {
            into.push(c);
        }
    }
}

fn address(remote: SocketAddr, into: &mut String) {
    let _ = write!(into, "[{}, port={}] ", remote.ip().to_canonical(), remote.port());
}

pub(super) fn rfc3339(at: SystemTime, into: &mut String) {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    let _ = write!(
        into,
        "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z",
        since.subsec_millis()
    );
}

/// The time in whole seconds as the stock router's message log has it, always UTC.
pub(super) fn seconds(at: SystemTime) -> String {
    let mut text = String::new();
    rfc3339(at, &mut text);
    text.truncate("YYYY-MM-DDThh:mm:ss".len());
    text + "+0000"
}

/// Year, month and day of the day `days` after 1970-01-01 in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that the leap day is a year's last and months need no table.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// `Nov 22 21:34:03` in the machine's time zone, as RFC 3164 wants.
fn rfc3164(at: SystemTime, into: &mut String) {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let time = libc::time_t::try_from(seconds).unwrap_or_default();
    // SAFETY: a tm of zeros (integers, and a pointer that may be null) is a valid value.
    let mut local: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live, initialised values of the right type; localtime_r keeps neither.
    unsafe { libc::localtime_r(&raw const time, &raw mut local) };
    let month = usize::try_from(local.tm_mon)
        .ok()
        .and_then(|m| MONTHS.get(m))
        .unwrap_or(&MONTHS[0]);
    let _ = write!(
        into,
        "{month} {:2} {:02}:{:02}:{:02}",
        local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec
    );
}
