//! All of XML's structure, one byte a step: the reference, and the way round whatever is rare.

use super::{Item, Phase, ScanError, Scanner};
use crate::wire::validate::Prefixes;

/// What the next byte continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Character data; below the root, what stands between frames.
    Text,
    /// `<`.
    Lt,
    /// `</` of an element below the root.
    EndLt,
    /// A start tag's name.
    StartName,
    /// An end tag's name.
    EndName,
    /// Space behind an end tag's name.
    EndSpace,
    /// Space where an attribute or the tag's end may follow.
    InTag,
    /// An attribute's name.
    AttrName,
    /// Space behind an attribute's name.
    AttrSpace,
    /// `=`, and space behind it.
    Eq,
    /// A value in `'`.
    Apos,
    /// A value in `"`.
    Quot,
    /// The quote that closed a value.
    Closed,
    /// The `/` of an empty element.
    Slash,
    /// `</` where only the root's end tag can stand, and so much of its name as `matched` says.
    RootName,
    /// Space behind the root's name.
    RootSpace,
    /// `<!`.
    Bang,
    /// `<!-`.
    BangDash,
    /// A comment.
    Comment,
    /// A comment's `-`.
    CommentDash,
    /// A comment's `--`: it must end here.
    CommentEnd,
    /// `<![`, and so much of `CDATA[` as `matched` says.
    CdataWord,
    /// A CDATA section.
    Cdata,
    /// Its `]`.
    CdataBracket,
    /// Its `]]`.
    CdataEnd,
    /// `<?`.
    Pi,
    /// A processing instruction's target.
    PiTarget,
    /// `?` right behind the target.
    PiTargetEnd,
    /// A processing instruction's content.
    PiBody,
    /// Its `?`.
    PiEnd,
}

impl State {
    /// Do the blocks know this state?
    #[inline(always)]
    pub(super) fn fit_for_blocks(self) -> bool {
        use State::*;
        matches!(
            self,
            Text | Lt | EndLt | StartName | EndName | InTag | AttrName | Eq | Apos | Quot | Closed | Slash
        )
    }
}

/// The character at hand: what its next byte may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Utf8 {
    missing: u8,
    low: u8,
    high: u8,
    /// The bytes so far are EF, or EF BF: U+FFFE and U+FFFF lie there.
    last_row: bool,
}

impl Utf8 {
    /// Is no character unfinished?
    #[inline(always)]
    pub(super) fn complete(&self) -> bool {
        self.missing == 0
    }

    /// Takes one byte; false: no character XML 1.0 (2.2) allows has it here.
    #[inline(always)]
    fn take(&mut self, b: u8) -> bool {
        if self.missing == 0 {
            if b < 0x80 {
                return b >= 0x20 || matches!(b, b'\t' | b'\n' | b'\r');
            }
            return self.lead(b);
        }
        if b < self.low || b > self.high {
            return false;
        }
        self.missing -= 1;
        self.low = 0x80;
        self.last_row &= self.missing == 0 || b == 0xbf;
        self.high = if self.last_row && self.missing == 1 { 0xbd } else { 0xbf };
        true
    }

    fn lead(&mut self, b: u8) -> bool {
        let (missing, low, high) = match b {
            0xc2..=0xdf => (1, 0x80, 0xbf),
            0xe0 => (2, 0xa0, 0xbf),
            0xed => (2, 0x80, 0x9f),
            0xe1..=0xef => (2, 0x80, 0xbf),
            0xf0 => (3, 0x90, 0xbf),
            0xf1..=0xf3 => (3, 0x80, 0xbf),
            0xf4 => (3, 0x80, 0x8f),
            _ => return false,
        };
        *self = Utf8 {
            missing,
            low,
            high,
            last_row: b == 0xef,
        };
        true
    }
}

const CDATA_WORD: &[u8] = b"CDATA[";
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | b'\r')
}

/// May the byte stand in a name, as far as structure goes?
fn is_name(b: u8) -> bool {
    !is_space(b) && !matches!(b, b'=' | b'/' | b'<' | b'>' | b'\'' | b'"')
}

fn broken<T>(text: &'static str) -> Result<T, ScanError> {
    Err(ScanError::NotWellFormed(text))
}

impl Scanner {
    /// Looks at the bytes before `until` (or the buffer's end), one at a time, up to the first item.
    pub(super) fn bytes(&mut self, buf: &[u8], until: usize) -> Result<Option<Item>, ScanError> {
        let until = until.min(buf.len());
        while self.at < until {
            if self.at >= self.stop {
                return Err(ScanError::TooLarge);
            }
            let b = buf[self.at];
            if !self.utf8.take(b) {
                return Err(ScanError::BadCharacter);
            }
            let found = self.byte(b, buf)?;
            self.at += 1;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn byte(&mut self, b: u8, buf: &[u8]) -> Result<Option<Item>, ScanError> {
        use State::*;
        self.state = match self.state {
            Text => self.text(b, buf)?,
            Apos if b == b'\'' => Closed,
            Quot if b == b'"' => Closed,
            Apos | Quot if b == b'<' => return broken("'<' in an attribute's value"),
            state @ (Apos | Quot) => state,
            Lt => self.markup(b)?,
            StartName | InTag | AttrName | AttrSpace | Eq | Closed | Slash => return self.start_tag(b, buf),
            EndLt | EndName | EndSpace => return self.end_tag(b),
            RootName | RootSpace => return self.root_end(b),
            _ => self.rare(b, buf)?,
        };
        Ok(None)
    }

    fn text(&mut self, b: u8, buf: &[u8]) -> Result<State, ScanError> {
        let between = self.depth == 0;
        match b {
            b'<' => {
                if between && self.phase != Phase::Prolog {
                    self.begin(self.at);
                }
                Ok(State::Lt)
            }
            // Text starts behind a '>', so two brackets before this one are text of the same run.
            b'>' if !between && self.at >= 2 && &buf[self.at - 2..self.at] == b"]]" => broken("']]>' in text"),
            _ if !between || is_space(b) => Ok(State::Text),
            _ => match self.phase {
                Phase::Prolog if BYTE_ORDER_MARK.get(self.at - self.start) == Some(&b) => Ok(State::Text),
                Phase::Prolog => broken("text before the stream's open tag"),
                Phase::Closed => broken("text behind the stream's close tag"),
                _ => broken("text between frames"),
            },
        }
    }

    /// Behind `<`.
    fn markup(&mut self, b: u8) -> Result<State, ScanError> {
        self.mark = self.at - 1;
        match b {
            b'!' => Ok(State::Bang),
            b'?' => Ok(State::Pi),
            b'/' if self.depth > 0 => Ok(State::EndLt),
            b'/' if self.phase == Phase::Body => {
                self.matched = 0;
                Ok(State::RootName)
            }
            _ if !is_name(b) => broken("no name behind '<'"),
            _ if self.phase == Phase::Closed => broken("a second root element"),
            _ => {
                if self.phase == Phase::Body {
                    if self.depth >= u32::from(self.limits.depth_max) {
                        return Err(ScanError::TooDeep);
                    }
                    self.depth += 1;
                }
                Ok(State::StartName)
            }
        }
    }

    fn start_tag(&mut self, b: u8, buf: &[u8]) -> Result<Option<Item>, ScanError> {
        use State::*;
        let space = is_space(b);
        self.state = match (self.state, b) {
            (StartName | InTag | Closed, b'>') => {
                self.state = Text;
                return if self.phase == Phase::Prolog {
                    self.opened(buf, false).map(Some)
                } else {
                    Ok(None)
                };
            }
            (Slash, b'>') => {
                self.state = Text;
                return if self.phase == Phase::Prolog {
                    self.opened(buf, true).map(Some)
                } else {
                    Ok(self.closed())
                };
            }
            (Slash, _) => return broken("'/' inside a tag"),
            (StartName | InTag | Closed, b'/') => Slash,
            (StartName | InTag | Closed, _) if space => InTag,
            (InTag, _) if is_name(b) => AttrName,
            (StartName, _) if is_name(b) => StartName,
            (AttrName, _) if is_name(b) => AttrName,
            (AttrName | AttrSpace, b'=') => Eq,
            (AttrName | AttrSpace, _) if space => AttrSpace,
            (Eq, _) if space => Eq,
            (Eq, b'\'') => Apos,
            (Eq, b'"') => Quot,
            (Closed, _) => return broken("no space between attributes"),
            (Eq, _) => return broken("an attribute's value without quotes"),
            (AttrName | AttrSpace, _) => return broken("an attribute without a value"),
            _ => return broken("bad start tag"),
        };
        Ok(None)
    }

    fn end_tag(&mut self, b: u8) -> Result<Option<Item>, ScanError> {
        use State::*;
        self.state = match (self.state, b) {
            (EndName | EndSpace, b'>') => {
                self.state = Text;
                return Ok(self.closed());
            }
            (EndLt | EndName, _) if is_name(b) => EndName,
            (EndName | EndSpace, _) if is_space(b) => EndSpace,
            _ => return broken("bad end tag"),
        };
        Ok(None)
    }

    /// An element below the root closed with the byte at hand.
    fn closed(&mut self) -> Option<Item> {
        self.depth -= 1;
        if self.depth > 0 {
            return None;
        }
        self.stop = usize::MAX;
        Some(Item::Frame {
            start: self.start,
            end: self.at + 1,
        })
    }

    fn root_end(&mut self, b: u8) -> Result<Option<Item>, ScanError> {
        let whole = self.matched == self.root.len();
        if self.state == State::RootName && self.root.get(self.matched) == Some(&b) {
            self.matched += 1;
        } else if whole && is_space(b) {
            self.state = State::RootSpace;
        } else if whole && b == b'>' {
            (self.state, self.phase, self.stop) = (State::Text, Phase::Closed, usize::MAX);
            return Ok(Some(Item::Close { end: self.at + 1 }));
        } else {
            return broken("mismatched tag");
        }
        Ok(None)
    }

    /// The open tag ends with the byte at hand.
    fn opened(&mut self, buf: &[u8], empty: bool) -> Result<Item, ScanError> {
        let end = self.at + 1;
        let Some(tag) = buf.get(self.mark..end) else {
            return broken("no open tag");
        };
        if let Err(invalid) = Prefixes::of_open_tag(tag) {
            return Err(ScanError::NotWellFormed(invalid.0));
        }
        self.root.extend(tag[1..].iter().take_while(|&&b| is_name(b)));
        self.phase = if empty { Phase::Closed } else { Phase::Body };
        self.stop = usize::MAX;
        Ok(Item::Open { end, empty })
    }

    /// Comments, CDATA sections, processing instructions.
    fn rare(&mut self, b: u8, buf: &[u8]) -> Result<State, ScanError> {
        use State::*;
        Ok(match (self.state, b) {
            (Bang, b'-') => BangDash,
            (Bang, b'[') => {
                self.matched = 0;
                CdataWord
            }
            (Bang, _) => return Err(ScanError::Restricted("document type declarations are not allowed")),
            (BangDash, b'-') => self.outside_frames(Comment),
            (BangDash, _) => return broken("bad comment"),
            (Comment, b'-') => CommentDash,
            (CommentDash, b'-') => CommentEnd,
            (Comment | CommentDash, _) => Comment,
            (CommentEnd, b'>') => Text,
            (CommentEnd, _) => return broken("'--' inside a comment"),
            (CdataWord, _) if CDATA_WORD[self.matched] == b => {
                self.matched += 1;
                if self.matched < CDATA_WORD.len() {
                    CdataWord
                } else if self.depth > 0 {
                    Cdata
                } else {
                    return broken("text between frames");
                }
            }
            (CdataWord, _) => return Err(ScanError::Restricted("conditional sections are not allowed")),
            (Cdata, b']') => CdataBracket,
            (CdataBracket, b']') | (CdataEnd, b']') => CdataEnd,
            (CdataEnd, b'>') => Text,
            (Cdata | CdataBracket | CdataEnd, _) => Cdata,
            _ => return self.instruction(b, buf),
        })
    }

    fn instruction(&mut self, b: u8, buf: &[u8]) -> Result<State, ScanError> {
        use State::*;
        Ok(match (self.state, b) {
            (Pi, b'A'..=b'Z' | b'a'..=b'z' | b'_' | b':' | 0x80..) => PiTarget,
            (PiTarget, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b':' | b'-' | b'.' | 0x80..) => PiTarget,
            (PiTarget, _) if is_space(b) || b == b'?' => {
                self.target(buf)?;
                if b == b'?' {
                    PiTargetEnd
                } else {
                    self.outside_frames(PiBody)
                }
            }
            (PiBody, b'?') | (PiEnd, b'?') => PiEnd,
            (PiEnd | PiTargetEnd, b'>') => {
                if self.phase == Phase::Prolog {
                    declaration(&buf[self.mark..=self.at])?;
                }
                self.outside_frames(Text)
            }
            (PiBody | PiEnd, _) => PiBody,
            _ => return broken("bad processing instruction"),
        })
    }

    /// The target of a processing instruction is known: is it an XML declaration, and may it be?
    fn target(&self, buf: &[u8]) -> Result<(), ScanError> {
        let target = &buf[self.mark + 2..self.at];
        if !target.eq_ignore_ascii_case(b"xml") {
            return Ok(());
        }
        let before = &buf[self.start..self.mark];
        if self.phase == Phase::Prolog && target == b"xml" && (before.is_empty() || before == BYTE_ORDER_MARK) {
            return Ok(());
        }
        broken("XML declaration not at the stream's start")
    }

    /// A comment or an instruction between frames need not be kept: no frame has begun.
    fn outside_frames(&mut self, state: State) -> State {
        if self.depth == 0 && self.phase != Phase::Prolog {
            self.stop = usize::MAX;
        }
        state
    }
}

/// Checks a processing instruction of the prologue: if it is the declaration, is it XML 1.x in UTF-8?
fn declaration(pi: &[u8]) -> Result<(), ScanError> {
    let Some(rest) = pi.strip_prefix(b"<?xml").and_then(|rest| rest.strip_suffix(b"?>")) else {
        return Ok(());
    };
    if rest.first().is_some_and(|&b| !is_space(b)) {
        // Another target, which only begins like this.
        return Ok(());
    }
    let bad = ScanError::NotWellFormed("bad XML declaration");
    let (version, rest) = pseudo_attribute(rest, b"version").ok_or(bad)?;
    if version != b"1.0" {
        return broken("XML version other than 1.0");
    }
    let rest = match pseudo_attribute(rest, b"encoding") {
        Some((encoding, _)) if !encoding.eq_ignore_ascii_case(b"UTF-8") => return broken("encoding other than UTF-8"),
        Some((_, rest)) => rest,
        None => rest,
    };
    let rest = match pseudo_attribute(rest, b"standalone") {
        Some((b"yes" | b"no", rest)) => rest,
        Some(_) => return Err(bad),
        None => rest,
    };
    if rest.iter().all(|&b| is_space(b)) {
        Ok(())
    } else {
        Err(bad)
    }
}

/// `S name S? = S? 'value'` at the front: the value, and what follows.
fn pseudo_attribute<'a>(bytes: &'a [u8], name: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let trimmed = bytes.trim_ascii_start();
    if trimmed.len() == bytes.len() {
        return None;
    }
    let rest = trimmed
        .strip_prefix(name)?
        .trim_ascii_start()
        .strip_prefix(b"=")?
        .trim_ascii_start();
    let (quote, rest) = rest.split_first().filter(|(q, _)| matches!(q, b'\'' | b'"'))?;
    let end = rest.iter().position(|b| b == quote)?;
    Some((&rest[..end], &rest[end + 1..]))
}
