//! Other people's parsers, asked where they see frames: expat (which sm and c2s use) and quick-xml.

#![allow(clippy::unwrap_used, dead_code)]

use libloading::{Library, Symbol};
use std::ffi::{c_char, c_int, c_long, c_void};

/// What a parser saw: the frames (children of the root) that were complete, and whether it refused the input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) frames: Vec<(usize, usize)>,
    pub(crate) refused: bool,
}

/// libexpat, loaded at run time.
pub(crate) struct Expat {
    library: Library,
}

#[repr(C)]
struct Walk {
    parser: *mut c_void,
    byte_index: unsafe extern "C" fn(*mut c_void) -> c_long,
    byte_count: unsafe extern "C" fn(*mut c_void) -> c_int,
    depth: usize,
    start: usize,
    frames: Vec<(usize, usize)>,
}

unsafe extern "C" fn on_start(data: *mut c_void, _: *const c_char, _: *const *const c_char) {
    // SAFETY: expat passes what `read` set, which outlives the parser and has no other reference meanwhile.
    let walk = unsafe { &mut *data.cast::<Walk>() };
    walk.depth += 1;
    if walk.depth == 2 {
        // SAFETY: called from within a handler of this parser, as expat demands.
        walk.start = unsafe { (walk.byte_index)(walk.parser) } as usize;
    }
}

unsafe extern "C" fn on_end(data: *mut c_void, _: *const c_char) {
    // SAFETY: as in `on_start`.
    let walk = unsafe { &mut *data.cast::<Walk>() };
    walk.depth -= 1;
    if walk.depth == 1 {
        // SAFETY: as in `on_start`.
        let end = unsafe { (walk.byte_index)(walk.parser) as usize + (walk.byte_count)(walk.parser) as usize };
        walk.frames.push((walk.start, end));
    }
}

type StartHandler = unsafe extern "C" fn(*mut c_void, *const c_char, *const *const c_char);
type EndHandler = unsafe extern "C" fn(*mut c_void, *const c_char);

impl Expat {
    /// `None` (and a word on stderr) where the library is not installed.
    pub(crate) fn load() -> Option<Expat> {
        // SAFETY: loading libexpat runs no code of its own.
        match unsafe { Library::new("libexpat.so.1") } {
            Ok(library) => Some(Expat { library }),
            Err(error) => {
                eprintln!("expat is not compared: {error}");
                None
            }
        }
    }

    /// Parses with namespaces, as jabberd2's components do.
    pub(crate) fn read(&self, input: &[u8], whole: bool) -> Seen {
        // SAFETY: the types are those of expat.h; handlers and user data are set before parsing; the parser is freed
        // last, and `walk` outlives it.
        unsafe {
            let create: Symbol<unsafe extern "C" fn(*const c_char, c_char) -> *mut c_void> =
                self.library.get(b"XML_ParserCreateNS").unwrap();
            let set_data: Symbol<unsafe extern "C" fn(*mut c_void, *mut c_void)> =
                self.library.get(b"XML_SetUserData").unwrap();
            let set_handlers: Symbol<unsafe extern "C" fn(*mut c_void, StartHandler, EndHandler)> =
                self.library.get(b"XML_SetElementHandler").unwrap();
            let parse: Symbol<unsafe extern "C" fn(*mut c_void, *const c_char, c_int, c_int) -> c_int> =
                self.library.get(b"XML_Parse").unwrap();
            let free: Symbol<unsafe extern "C" fn(*mut c_void)> = self.library.get(b"XML_ParserFree").unwrap();
            let parser = create(std::ptr::null(), b'|' as c_char);
            let mut walk = Walk {
                parser,
                byte_index: *self.library.get(b"XML_GetCurrentByteIndex").unwrap(),
                byte_count: *self.library.get(b"XML_GetCurrentByteCount").unwrap(),
                depth: 0,
                start: 0,
                frames: Vec::new(),
            };
            let data: *mut Walk = &raw mut walk;
            set_data(parser, data.cast());
            set_handlers(parser, on_start, on_end);
            let status = parse(parser, input.as_ptr().cast(), input.len() as c_int, c_int::from(whole));
            free(parser);
            Seen {
                frames: std::mem::take(&mut (*data).frames),
                refused: status == 0,
            }
        }
    }
}

/// quick-xml with its checks on; it knows less of XML than expat, so only its borders count.
pub(crate) fn quick_xml(input: &[u8]) -> Seen {
    use quick_xml::events::Event;
    let mut reader = quick_xml::Reader::from_reader(input);
    let config = reader.config_mut();
    (config.check_end_names, config.check_comments) = (true, true);
    let (mut seen, mut depth, mut start) = (Seen::default(), 0usize, 0);
    loop {
        let before = reader.buffer_position() as usize;
        match reader.read_event() {
            Ok(Event::Start(_)) => {
                depth += 1;
                if depth == 2 {
                    start = before;
                }
            }
            Ok(Event::End(_)) => {
                depth -= 1;
                if depth == 1 {
                    seen.frames.push((start, reader.buffer_position() as usize));
                }
            }
            Ok(Event::Empty(_)) if depth == 1 => seen.frames.push((before, reader.buffer_position() as usize)),
            Ok(Event::Eof) => return seen,
            Ok(_) => {}
            Err(_) => {
                seen.refused = true;
                return seen;
            }
        }
    }
}
