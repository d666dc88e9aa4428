//! The frame scanner: where does each child of the stream root end?

/// Limits of one stream.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest frame (one child of the stream root), bytes.
    pub frame_bytes_max: usize,
    /// Longest stream header (prologue and open tag), bytes.
    pub open_bytes_max: usize,
    /// Deepest nesting below the stream root, elements.
    pub depth_max: u16,
}

/// What the scanner found; offsets count from the start of the buffer given to [`Scanner::next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// The stream's open tag (with what came before it: declaration, space, comments) ends before `end`.
    Open {
        /// First byte after the open tag.
        end: usize,
        /// The open tag closed itself (`<stream:stream/>`): the stream is over at once.
        empty: bool,
    },
    /// One whole frame, `start..end`, without the space, comments and PIs between frames.
    Frame {
        /// The `<` of the frame's start tag.
        start: usize,
        /// First byte after the frame.
        end: usize,
    },
    /// The stream's close tag.
    Close {
        /// First byte after the close tag.
        end: usize,
    },
}

/// Why a stream can't go on. The link is answered with the stream error of [`ScanError::condition`] and closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanError {
    /// Not well-formed; the text says how.
    NotWellFormed(&'static str),
    /// Bytes that are not UTF-8, or a character XML 1.0 forbids.
    BadCharacter,
    /// DOCTYPE, or anything else RFC 6120 11.1 forbids (restricted-xml).
    Restricted(&'static str),
    /// A frame or header over its limit (policy-violation).
    TooLarge,
    /// Nested deeper than the limit (policy-violation).
    TooDeep,
}
