//! The frames that are counted, as jabberd2's components write them.

const NS_COMPONENT: &str = "http://jabberd.jabberstudio.org/ns/component/1.0";
const NS_SESSION: &str = "http://jabberd.jabberstudio.org/ns/session/1.0";
/// What one read of a busy link brings.
pub(crate) const READ_BYTES: usize = 64 << 10;
pub(crate) const DOMAIN: &str = "example.net";

pub(crate) fn route(from: &str, to: &str, payload: &str) -> String {
    format!("<route xmlns='{NS_COMPONENT}' from='{from}' to='{to}'>{payload}</route>")
}

/// A frame of this size between two plain ids.
pub(crate) fn pipe(from: &str, to: &str, bytes: usize) -> String {
    let message = |body: &str| {
        format!(
            "<message xmlns='jabber:client' from='u@{from}.test' to='v@{to}.test' id='0123456789abcdef'><body>{body}</body></message>"
        )
    };
    let empty = route(from, to, &message("")).len();
    route(from, to, &message(&"x".repeat(bytes - empty)))
}

/// One read of such frames, and how many they are.
pub(crate) fn pipe_read(from: &str, to: &str, bytes: usize) -> (Vec<u8>, usize) {
    let frames = READ_BYTES / bytes;
    (pipe(from, to, bytes).repeat(frames).into_bytes(), frames)
}

/// The sm-side id of a client.
pub(crate) fn token(client: u32) -> String {
    format!("{client:040x}")
}

pub(crate) fn user(client: u32) -> String {
    format!("user{client}@{DOMAIN}")
}

fn id(client: u32) -> String {
    format!("{:032x}", u128::from(client) * 0x1234_5678_9abc_def1)
}

pub(crate) fn start(c2s: &str, client: u32) -> String {
    let (id, target) = (id(client), format!("{}/one", user(client)));
    route(
        c2s,
        DOMAIN,
        &format!(
            "<sc:session xmlns:sc='{NS_SESSION}' id='{id}' target='{target}' action='start' sc:c2s='{client}'></sc:session>"
        ),
    )
}

pub(crate) fn started(sm: &str, c2s: &str, client: u32) -> String {
    let (id, target, token) = (id(client), format!("{}/one", user(client)), token(client));
    route(
        sm,
        c2s,
        &format!(
            "<sc:session xmlns:sc='{NS_SESSION}' sc:sm='{token}' id='{id}' target='{target}' action='started' sc:c2s='{client}'></sc:session>"
        ),
    )
}

/// A chat message of a client, as its c2s hands it to sm.
pub(crate) fn said(c2s: &str, sm: &str, client: u32, to: u32, body: &str) -> String {
    let (token, id, to) = (token(client), id(client), user(to));
    route(
        c2s,
        sm,
        &format!(
            "<message xmlns:sc='{NS_SESSION}' xmlns='jabber:client' sc:sm='{token}' sc:c2s='{client}' xml:lang='en' id='{id}' to='{to}' type='chat'><body>{body}</body></message>"
        ),
    )
}

/// The same on its way from sm to the recipient's sm.
pub(crate) fn sent(sm: &str, client: u32, to: u32, body: &str) -> String {
    let (from, id, to) = (format!("{}/one", user(client)), id(client), user(to));
    route(
        sm,
        DOMAIN,
        &format!(
            "<message xmlns='jabber:client' from='{from}' xml:lang='en' id='{id}' to='{to}' type='chat'><body>{body}</body></message>"
        ),
    )
}

/// The same on its way from the recipient's sm to his c2s.
pub(crate) fn delivered(c2s: &str, client: u32, to: u32, body: &str) -> String {
    let (from, id, full, token) = (
        format!("{}/one", user(client)),
        id(client),
        format!("{}/one", user(to)),
        token(to),
    );
    route(
        DOMAIN,
        c2s,
        &format!(
            "<message xmlns:sm='{NS_SESSION}' xmlns='jabber:client' sm:sm='{token}' sm:c2s='{to}' from='{from}' xml:lang='en' id='{id}' to='{full}' type='chat'><body>{body}</body></message>"
        ),
    )
}

/// Numbers without a pattern that a branch predictor or a cache could learn.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new() -> Draw {
        Draw(7)
    }

    pub(crate) fn below(&mut self, n: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from((self.0 >> 33) % u64::from(n)).unwrap_or(0)
    }

    /// The text of a message: 20 to 400 bytes.
    pub(crate) fn body(&mut self) -> String {
        let length = 20 + self.below(381) as usize;
        "some words in a body ".repeat(length / 21 + 1)[..length].to_owned()
    }
}
