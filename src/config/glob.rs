//! Shell patterns, as fnmatch(3) without flags understands them: `*`, `?`, `[set]`, `[!set]`, backslash.

/// Texts longer than this are no JIDs and match nothing but `*`, bytes: bounds the work for one match.
const TEXT_BYTES_MAX: usize = 3071;

/// A pattern, ready to match. Letter case matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    source: String,
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Star,
    Any,
    Char(char),
    Set {
        negated: bool,
        items: Vec<Item>,
    },
    /// A backslash at the end: matches nothing.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    Range(char, char),
    Class(fn_class::Class),
}

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: &str) -> Glob {
        let chars: Vec<char> = pattern.chars().collect();
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(&c) = chars.get(at) {
            at += 1;
            match c {
                '*' if tokens.last() == Some(&Token::Star) => {}
                '*' => tokens.push(Token::Star),
                '?' => tokens.push(Token::Any),
                '\\' => {
                    tokens.push(chars.get(at).map_or(Token::Never, |&next| Token::Char(next)));
                    at += 1;
                }
                '[' => match set(&chars, at) {
                    Some((token, end)) => {
                        tokens.push(token);
                        at = end;
                    }
                    None => tokens.push(Token::Char('[')),
                },
                c => tokens.push(Token::Char(c)),
            }
        }
        Glob {
            source: pattern.to_owned(),
            tokens,
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    /// Whether the whole of `text` matches.
    pub fn matches(&self, text: &str) -> bool {
        if self.tokens == [Token::Star] {
            return true;
        }
        if text.len() > TEXT_BYTES_MAX {
            return false;
        }
        let text: Vec<char> = text.chars().collect();
        let (mut t, mut p) = (0, 0);
        // Where to go on when a token fails: behind the last star, which then takes one more character.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.tokens.get(p), text.get(t)) {
                (Some(Token::Star), _) => {
                    p += 1;
                    retry = Some((p, t));
                }
                (Some(token), Some(&c)) if token.takes(c) => {
                    p += 1;
                    t += 1;
                }
                (None, None) => return true,
                _ => match retry {
                    Some((star, from)) if from < text.len() => {
                        retry = Some((star, from + 1));
                        p = star;
                        t = from + 1;
                    }
                    _ => return false,
                },
            }
        }
    }
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Token::Any => true,
            Token::Char(own) => *own == c,
            Token::Set { negated, items } => *negated != items.iter().any(|item| item.takes(c)),
            Token::Star | Token::Never => false,
        }
    }
}

impl Item {
    fn takes(&self, c: char) -> bool {
        match self {
            Item::Range(low, high) => (*low..=*high).contains(&c),
            Item::Class(class) => class.takes(c),
        }
    }
}

/// The set whose `[` stands before `at`, and where it ends; `None` if it is never closed.
fn set(chars: &[char], mut at: usize) -> Option<(Token, usize)> {
    let negated = matches!(chars.get(at), Some('!' | '^'));
    at += usize::from(negated);
    let first = at;
    let mut items = Vec::new();
    loop {
        let c = *chars.get(at)?;
        if c == ']' && at > first {
            return Some((Token::Set { negated, items }, at + 1));
        }
        if c == '['
            && chars.get(at + 1) == Some(&':')
            && let Some((class, end)) = fn_class::named(chars, at + 2)
        {
            items.push(Item::Class(class));
            at = end;
            continue;
        }
        let (low, next) = element(chars, at)?;
        at = next;
        if chars.get(at) == Some(&'-') && chars.get(at + 1).is_some_and(|&c| c != ']') {
            let (high, next) = element(chars, at + 1)?;
            items.push(Item::Range(low, high));
            at = next;
        } else {
            items.push(Item::Range(low, low));
        }
    }
}

/// One character of a set, perhaps behind a backslash, and what follows it.
fn element(chars: &[char], at: usize) -> Option<(char, usize)> {
    match *chars.get(at)? {
        '\\' => Some((*chars.get(at + 1)?, at + 2)),
        c => Some((c, at + 1)),
    }
}

mod fn_class {
    //! Named classes, with the members of the C locale.

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Class {
        Alpha,
        Digit,
        Alnum,
        Upper,
        Lower,
        Space,
        Blank,
        Punct,
        Print,
        Graph,
        Cntrl,
        Xdigit,
    }

    const NAMES: [(&str, Class); 12] = [
        ("alpha", Class::Alpha),
        ("digit", Class::Digit),
        ("alnum", Class::Alnum),
        ("upper", Class::Upper),
        ("lower", Class::Lower),
        ("space", Class::Space),
        ("blank", Class::Blank),
        ("punct", Class::Punct),
        ("print", Class::Print),
        ("graph", Class::Graph),
        ("cntrl", Class::Cntrl),
        ("xdigit", Class::Xdigit),
    ];

    /// The class named from `at` on, and what follows its `:]`.
    pub(super) fn named(chars: &[char], at: usize) -> Option<(Class, usize)> {
        NAMES.iter().find_map(|(name, class)| {
            let end = at + name.len();
            let same = chars.get(at..end)?.iter().copied().eq(name.chars());
            (same && chars.get(end..end + 2)? == [':', ']']).then_some((*class, end + 2))
        })
    }

    impl Class {
        pub(super) fn takes(self, c: char) -> bool {
            match self {
                Class::Alpha => c.is_ascii_alphabetic(),
                Class::Digit => c.is_ascii_digit(),
                Class::Alnum => c.is_ascii_alphanumeric(),
                Class::Upper => c.is_ascii_uppercase(),
                Class::Lower => c.is_ascii_lowercase(),
                Class::Space => c.is_ascii_whitespace() || c == '\u{b}',
                Class::Blank => c == ' ' || c == '\t',
                Class::Punct => c.is_ascii_punctuation(),
                Class::Print => c == ' ' || c.is_ascii_graphic(),
                Class::Graph => c.is_ascii_graphic(),
                Class::Cntrl => c.is_ascii_control(),
                Class::Xdigit => c.is_ascii_hexdigit(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;

    fn libc_matches(pattern: &str, text: &str) -> bool {
        let (pattern, text) = (CString::new(pattern).unwrap(), CString::new(text).unwrap());
        // SAFETY: both are C strings that live until the call returns; fnmatch keeps neither.
        unsafe { libc::fnmatch(pattern.as_ptr(), text.as_ptr(), 0) == 0 }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn same_as_the_c_library(pattern in "[ab*?\\[\\]!^\\-\\\\]{0,8}", text in "[ab\\]\\[\\-!^]{0,6}") {
            let glob = Glob::new(&pattern);
            // A set that is never closed stands for itself; glibc forgets that behind a star ("*[*-" refuses "[-"), and when
            // the pattern ends inside a range ("[?-" refuses "[!-").
            let forgets = glob.tokens.contains(&Token::Star) || pattern.ends_with('-');
            if !(forgets && glob.tokens.contains(&Token::Char('['))) {
                prop_assert_eq!(glob.matches(&text), libc_matches(&pattern, &text), "{} {}", pattern, text);
            }
        }

        #[test]
        fn same_as_the_c_library_on_jids(pattern in "([a-c*?@.]|\\[a-b\\]|\\[!c\\]){0,10}", text in "[a-c@.]{0,12}") {
            prop_assert_eq!(Glob::new(&pattern).matches(&text), libc_matches(&pattern, &text), "{} {}", pattern, text);
        }

        #[test]
        fn never_panics(pattern in any::<String>(), text in any::<String>()) {
            Glob::new(&pattern).matches(&text);
        }
    }

    #[test]
    fn examples() {
        let yes = [
            ("*@evil.gov", "x@evil.gov"),
            ("*", ""),
            ("a?c", "aéc"),
            ("[[:digit:]x]", "7"),
            ("\\*", "*"),
        ];
        for (pattern, text) in yes {
            assert!(Glob::new(pattern).matches(text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("*@evil.gov", "x@evil.government"),
            ("a", "A"),
            ("", "a"),
            ("[!a]", "a"),
            ("a\\", "a"),
        ] {
            assert!(!Glob::new(pattern).matches(text), "{pattern} {text}");
        }
        let long = "a".repeat(TEXT_BYTES_MAX + 1);
        assert!(Glob::new("*").matches(&long) && !Glob::new("a*").matches(&long));
    }
}
