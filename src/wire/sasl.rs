//! SASL DIGEST-MD5 (RFC 2831, `algorithm=md5-sess`, `qop=auth`), both sides, as jabberd2's components speak it.
//!
//! One nonce serves one response, so nothing can be replayed. MD5 is what the components have; where that is not
//! enough, the link goes through TLS.

use super::handshake::{hex, same};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest, Md5};
use rand_core::RngCore;
use std::borrow::Cow;

/// The mechanism's name.
pub const MECHANISM: &str = "DIGEST-MD5";
/// Longest decoded challenge or response, bytes (RFC 2831 2.1.2: 4096).
pub const MESSAGE_BYTES_MAX: usize = 4096;
/// Most directives of one challenge or response.
pub const DIRECTIVES_MAX: usize = 32;
/// Randomness of a nonce.
const NONCE_BYTES: usize = 16;
/// The nonce count of the first, and here only, response to a nonce.
const FIRST_NONCE_COUNT: &str = "00000001";

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not base64.
    Encoding,
    /// Base64 of something that is no DIGEST-MD5 message.
    Malformed,
    /// Wrong user, password, realm, nonce or service.
    NotAuthorized,
}

/// An accepted response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Who proved to be.
    pub user: String,
    /// Base64 of `rspauth=...`, for `<success/>`.
    pub success: String,
}

/// Random text for a nonce.
pub fn new_nonce(rng: &mut dyn RngCore) -> String {
    let mut bytes = [0; NONCE_BYTES];
    rng.fill_bytes(&mut bytes);
    BASE64.encode(bytes)
}

/// The server's challenge, base64.
pub fn challenge(realm: &str, nonce: &str) -> String {
    let realm = quoted(realm);
    BASE64.encode(format!(
        "realm={realm}, nonce=\"{nonce}\", qop=\"auth\", charset=utf-8, algorithm=md5-sess"
    ))
}

/// Checks a response (base64) to [`challenge`]. Every comparison with something secret takes constant time, and an
/// unknown user is answered like a wrong password.
pub fn verify(
    response: &[u8],
    realm: &str,
    nonce: &str,
    secret_of: &dyn Fn(&str) -> Option<String>,
) -> Result<Accepted, Refused> {
    let response = decode(response)?;
    let directives = Directives::parse(&response).ok_or(Refused::Malformed)?;
    let need = |name| directives.get(name).ok_or(Refused::Malformed);
    let (user, cnonce, uri) = (need("username")?, need("cnonce")?, need("digest-uri")?);
    let (proof, theirs) = (need("response")?, need("nonce")?);
    if directives.get("nc") != Some(FIRST_NONCE_COUNT) || directives.get("qop").is_some_and(|qop| qop != "auth") {
        return Err(Refused::Malformed);
    }
    let service = uri.split_once('/').map(|(service, _)| service);
    let named_right = directives.get("realm") == Some(realm)
        && service == Some(realm)
        && !directives.has("authzid")
        && same(theirs.as_bytes(), nonce.as_bytes());
    let secret = secret_of(user);
    let exchange = Exchange {
        user,
        realm,
        pass: secret.as_deref().unwrap_or_default(),
        nonce,
        cnonce,
        uri,
    };
    let proven = same(exchange.response("AUTHENTICATE").as_bytes(), proof.as_bytes());
    if !(proven & named_right & secret.is_some()) {
        return Err(Refused::NotAuthorized);
    }
    let success = BASE64.encode(format!("rspauth={}", exchange.response("")));
    Ok(Accepted {
        user: user.to_owned(),
        success,
    })
}

/// What a client answers to a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response, base64.
    pub response: String,
    /// The `rspauth` by which the server proves that it knows the secret too.
    pub rspauth: String,
}

/// Answers a challenge (base64).
pub fn answer(challenge: &[u8], user: &str, pass: &str, hostname: &str, cnonce: &str) -> Result<Answer, Refused> {
    let challenge = decode(challenge)?;
    let directives = Directives::parse(&challenge).ok_or(Refused::Malformed)?;
    let nonce = directives.get("nonce").ok_or(Refused::Malformed)?;
    let realm = directives.get("realm").unwrap_or_default();
    let offers = |name: &str, wanted: &str| {
        directives
            .get(name)
            .is_none_or(|list| list.split(',').any(|offer| offer.trim() == wanted))
    };
    if !offers("qop", "auth") || !offers("algorithm", "md5-sess") {
        return Err(Refused::Malformed);
    }
    let uri = format!("jabberd-router/{hostname}");
    let exchange = Exchange {
        user,
        realm,
        pass,
        nonce,
        cnonce,
        uri: &uri,
    };
    let response = format!(
        "username={}, realm={}, nonce={}, cnonce={}, nc={FIRST_NONCE_COUNT}, qop=auth, digest-uri={}, response={}, charset=utf-8",
        quoted(user),
        quoted(realm),
        quoted(nonce),
        quoted(cnonce),
        quoted(&uri),
        exchange.response("AUTHENTICATE"),
    );
    Ok(Answer {
        response: BASE64.encode(response),
        rspauth: exchange.response(""),
    })
}

/// The `rspauth` of a decoded `<success/>` or second challenge, if it has one.
pub fn rspauth(message: &[u8]) -> Result<Option<String>, Refused> {
    let message = decode(message)?;
    let directives = Directives::parse(&message).ok_or(Refused::Malformed)?;
    Ok(directives.get("rspauth").map(str::to_owned))
}

/// Whether the server's `rspauth` is the expected one; in constant time.
pub fn rspauth_matches(expected: &str, theirs: &str) -> bool {
    same(expected.as_bytes(), theirs.as_bytes())
}

/// What both sides hash (RFC 2831 2.1.2.1).
struct Exchange<'a> {
    user: &'a str,
    realm: &'a str,
    pass: &'a str,
    nonce: &'a str,
    cnonce: &'a str,
    uri: &'a str,
}

impl Exchange<'_> {
    /// `response` with the method `AUTHENTICATE`, `rspauth` with none.
    fn response(&self, method: &str) -> String {
        let secret = md5(&[
            self.user.as_bytes(),
            b":",
            self.realm.as_bytes(),
            b":",
            &latin1(self.pass),
        ]);
        let (nonce, cnonce) = (self.nonce.as_bytes(), self.cnonce.as_bytes());
        let ha1 = hex(&md5(&[&secret, b":", nonce, b":", cnonce]));
        let ha2 = hex(&md5(&[method.as_bytes(), b":", self.uri.as_bytes()]));
        let count = FIRST_NONCE_COUNT.as_bytes();
        hex(&md5(&[
            ha1.as_bytes(),
            b":",
            nonce,
            b":",
            count,
            b":",
            cnonce,
            b":auth:",
            ha2.as_bytes(),
        ]))
    }
}

/// A password that fits into ISO 8859-1 is hashed in it (RFC 2831 2.1.2.1). User name and realm are hashed as UTF-8,
/// against the letter of the RFC: so do the library of jabberd2's components and the stock router.
fn latin1(text: &str) -> Cow<'_, [u8]> {
    let narrow: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
    narrow.map_or(Cow::Borrowed(text.as_bytes()), Cow::Owned)
}

fn md5(parts: &[&[u8]]) -> [u8; 16] {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().into()
}

fn decode(base64: &[u8]) -> Result<String, Refused> {
    // 4 characters hold 3 bytes.
    if base64.len() > MESSAGE_BYTES_MAX / 3 * 4 + 4 {
        return Err(Refused::Malformed);
    }
    let bytes = BASE64.decode(base64.trim_ascii()).map_err(|_| Refused::Encoding)?;
    String::from_utf8(bytes).map_err(|_| Refused::Malformed)
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The directives of a message: `name=value` or `name="value"`, separated by commas (RFC 2831 7.1).
struct Directives<'a>(Vec<(&'a str, String)>);

impl<'a> Directives<'a> {
    /// `None` if the text has another form, a directive stands twice, or there are more than [`DIRECTIVES_MAX`].
    fn parse(text: &'a str) -> Option<Directives<'a>> {
        let mut found: Vec<(&str, String)> = Vec::new();
        let mut rest = skip(text);
        while !rest.is_empty() {
            let (name, behind) = rest.split_once('=')?;
            let name = name.trim_end();
            let (value, behind) = Directives::value(behind.trim_start())?;
            let token = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            let known = found.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
            if name.is_empty() || !name.chars().all(token) || known || found.len() == DIRECTIVES_MAX {
                return None;
            }
            found.push((name, value));
            rest = behind.trim_start();
            if !rest.is_empty() {
                rest = skip(rest.strip_prefix(',')?);
            }
        }
        Some(Directives(found))
    }

    /// The value at the start of `text`, and what comes behind it.
    fn value(text: &str) -> Option<(String, &str)> {
        let Some(inner) = text.strip_prefix('"') else {
            let end = text
                .find(|c: char| c == ',' || c.is_ascii_whitespace())
                .unwrap_or(text.len());
            let token = &text[..end];
            return (!token.is_empty() && !token.contains('"')).then(|| (token.to_owned(), &text[end..]));
        };
        let mut value = String::new();
        let mut chars = inner.char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return Some((value, &inner[at + 1..])),
                '\\' => value.push(chars.next()?.1),
                _ => value.push(c),
            }
        }
        None
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| !value.is_empty())
    }
}

/// Behind spaces and empty list elements.
fn skip(text: &str) -> &str {
    text.trim_start_matches(|c: char| c == ',' || c.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NONCE: &str = "5M6qw6s5IhXG6Q+GPw74mg==";
    const CNONCE: &str = "nBMULcFUyOwwkv3v4x9eOg==";
    const CHALLENGE: &str = "cmVhbG09ImphYmJlcmQtcm91dGVyIiwgbm9uY2U9IjVNNnF3NnM1SWhYRzZRK0dQdzc0bWc9PSIsIHFvcD0iYXV0aCIsIGNoYXJzZXQ9dXRmLTgsIGFsZ29yaXRobT1tZDUtc2Vzcw==";
    const RESPONSE: &str = "dXNlcm5hbWU9ImphYmJlcmQiLCByZWFsbT0iamFiYmVyZC1yb3V0ZXIiLCBub25jZT0iNU02cXc2czVJaFhHNlErR1B3NzRtZz09IiwgY25vbmNlPSJuQk1VTGNGVXlPd3drdjN2NHg5ZU9nPT0iLCBuYz0wMDAwMDAwMSwgcW9wPWF1dGgsIGRpZ2VzdC11cmk9ImphYmJlcmQtcm91dGVyL3ZtIiwgcmVzcG9uc2U9ZDlkMzYyZDExMzc3MGQ2ZTQ1M2U1NmM2MGIzNTk1NjQsIGNoYXJzZXQ9dXRmLTg=";
    const SUCCESS: &str = "cnNwYXV0aD1jODZhMDVmNDIxMDljMzk1NzRkMzA0MzlmZDE5NjZkZQ==";

    fn secret(user: &str) -> Option<String> {
        (user == "jabberd").then(|| "secret".to_owned())
    }

    fn check(response: &str) -> Result<Accepted, Refused> {
        verify(BASE64.encode(response).as_bytes(), "jabberd-router", NONCE, &secret)
    }

    fn captured() -> String {
        String::from_utf8(BASE64.decode(RESPONSE).unwrap()).unwrap()
    }

    #[test]
    fn a_captured_exchange_from_both_sides() {
        assert_eq!(challenge("jabberd-router", NONCE), CHALLENGE);
        let mine = answer(CHALLENGE.as_bytes(), "jabberd", "secret", "vm", CNONCE).unwrap();
        assert_eq!(mine.response, RESPONSE);
        let accepted = verify(RESPONSE.as_bytes(), "jabberd-router", NONCE, &secret).unwrap();
        assert_eq!(
            accepted,
            Accepted {
                user: "jabberd".into(),
                success: SUCCESS.into()
            }
        );
        assert_eq!(rspauth(SUCCESS.as_bytes()).unwrap().unwrap(), mine.rspauth);
        assert!(rspauth_matches(&mine.rspauth, "c86a05f42109c39574d30439fd1966de"));
    }

    #[test]
    fn a_password_beyond_ascii_is_hashed_as_the_stock_router_does() {
        // Captured from a stock router with the password "sécret".
        let exchange = Exchange {
            user: "jabberd",
            realm: "r",
            pass: "s\u{e9}cret",
            nonce: "n",
            cnonce: "c",
            uri: "u",
        };
        let secret = md5(&[b"jabberd:r:s\xe9cret"]);
        let ha1 = hex(&md5(&[&secret, b":n:c"]));
        let ha2 = hex(&md5(&[b"AUTHENTICATE:u"]));
        assert_eq!(
            exchange.response("AUTHENTICATE"),
            hex(&md5(&[format!("{ha1}:n:00000001:c:auth:{ha2}").as_bytes()]))
        );
        assert_eq!(&*latin1("\u{20ac}"), "\u{20ac}".as_bytes());
    }

    #[test]
    fn every_directive_counts() {
        assert!(check(&captured()).is_ok());
        for (from, to, refused) in [
            ("username=\"jabberd\"", "username=\"nobody\"", Refused::NotAuthorized),
            ("realm=\"jabberd-router\"", "realm=\"other\"", Refused::NotAuthorized),
            ("realm=\"jabberd-router\", ", "", Refused::NotAuthorized),
            ("nonce=\"5M6q", "nonce=\"6M6q", Refused::NotAuthorized),
            ("cnonce=\"nBMU", "cnonce=\"oBMU", Refused::NotAuthorized),
            ("nc=00000001", "nc=00000002", Refused::Malformed),
            ("nc=00000001, ", "", Refused::Malformed),
            ("qop=auth", "qop=auth-int", Refused::Malformed),
            ("jabberd-router/vm", "xmpp/vm", Refused::NotAuthorized),
            ("jabberd-router/vm", "jabberd-router", Refused::NotAuthorized),
            ("jabberd-router/vm", "jabberd-router/vn", Refused::NotAuthorized),
            ("response=d9", "response=d8", Refused::NotAuthorized),
            ("response=d9d3", "response=d9d", Refused::NotAuthorized),
            (", charset", ", authzid=\"root\", charset", Refused::NotAuthorized),
            (", charset", ", username=\"root\", charset", Refused::Malformed),
        ] {
            let altered = captured().replacen(from, to, 1);
            assert_ne!(altered, captured(), "{from}");
            assert_eq!(check(&altered), Err(refused), "{altered}");
        }
    }

    #[test]
    fn another_nonce_makes_a_response_stale() {
        let stale = verify(RESPONSE.as_bytes(), "jabberd-router", "another", &secret);
        assert_eq!(stale, Err(Refused::NotAuthorized));
    }

    #[test]
    fn messages_of_other_forms() {
        assert_eq!(verify(b"!!!", "r", "n", &secret), Err(Refused::Encoding));
        assert_eq!(verify(b"AAAA", "r", "n", &secret), Err(Refused::Malformed));
        assert_eq!(
            verify(&vec![b'A'; MESSAGE_BYTES_MAX * 2], "r", "n", &secret),
            Err(Refused::Malformed)
        );
        for bad in [
            "a", "a=", "=b", "a=\"b", "a=\"b\\", "a=b c=d", "a=b\"", "a b=c", "a=b, A=c",
        ] {
            assert!(Directives::parse(bad).is_none(), "{bad}");
        }
        let parsed = Directives::parse(" ,a = \"x\\\"y,\" ,, b=c ,").unwrap();
        assert_eq!(
            (parsed.get("a"), parsed.get("B"), parsed.get("c")),
            (Some("x\"y,"), Some("c"), None)
        );
        let many = |n: usize| (0..n).map(|i| format!("a{i}=b,")).collect::<String>();
        assert!(Directives::parse(&many(DIRECTIVES_MAX)).is_some());
        assert!(Directives::parse(&many(DIRECTIVES_MAX + 1)).is_none());
    }

    #[test]
    fn a_user_name_with_quotes_survives() {
        let secret = |user: &str| (user == "a\"\\b").then(|| "p".to_owned());
        let challenge = challenge("jabberd-router", "n");
        let mine = answer(challenge.as_bytes(), "a\"\\b", "p", "h", "c").unwrap();
        let accepted = verify(mine.response.as_bytes(), "jabberd-router", "n", &secret).unwrap();
        assert_eq!(accepted.user, "a\"\\b");
    }
}
