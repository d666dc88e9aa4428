"""Configuration files of a test machine: Debian's modules and settings, the tests' addresses and limits."""

import functools
import re

USER, PASSWORD = "jabberd", "secret"
# Short: mu-conference hashes no more than about 50 characters of stream id and secret together, and ids have 40.
COMPONENT_SECRET = "s3cr3t"
LIBRARIES = "/usr/lib/x86_64-linux-gnu/jabberd2"
RETRY = "<retry><init>-1</init><lost>-1</lost><sleep>1</sleep></retry>"
LOG = "<log type='stdout'/>"


def router_link(ip, port, pemfile=None):
    pem = "<pemfile>%s</pemfile>" % pemfile if pemfile else ""
    return "<router><ip>%s</ip><port>%d</port><user>%s</user><pass>%s</pass>%s%s</router>" % (ip, port, USER, PASSWORD, pem, RETRY)


@functools.cache
def debian_sm_sections():
    with open("/etc/jabberd2/sm.xml", encoding="utf-8") as file:
        text = re.sub(r"<!--.*?-->", "", file.read(), flags=re.S)
    return "\n".join(re.search(r"<%s>.*?</%s>" % (name, name), text, re.S).group(0) for name in ("modules", "discovery", "user"))


def sm(name, link, domains, storage):
    ids = "".join("<id>%s</id>" % domain for domain in domains)
    return """<sm><id>{name}</id>{link}{LOG}<local>{ids}</local>
<storage><path>{LIBRARIES}</path>{storage}</storage>
{sections}
<amp/><offline/><roster/><status/></sm>""".format(sections=debian_sm_sections(), LOG=LOG, LIBRARIES=LIBRARIES, **locals())


def c2s(name, link, domains, authreg, ip, port):
    ids = "".join("<id register-enable='mu'>%s</id>" % domain for domain in domains)
    return """<c2s><id>{name}</id>{link}{LOG}<local>{ids}<ip>{ip}</ip><port>{port}</port></local>
<io><max_fds>4096</max_fds><limits><bytes>0</bytes><stanzas>0</stanzas><connects>0</connects><stanzasize>65535</stanzasize></limits></io>
<authreg><path>{LIBRARIES}</path>
<mechanisms><traditional><plain/><digest/></traditional><sasl><plain/><digest-md5/></sasl></mechanisms>
{authreg}</authreg></c2s>""".format(LOG=LOG, LIBRARIES=LIBRARIES, **locals())


def s2s(name, link, ip, pemfile=None):
    pem = "<pemfile>%s</pemfile>" % pemfile if pemfile else ""
    return """<s2s><id>{name}</id>{link}{LOG}<local><ip>{ip}</ip><port>5269</port>{pem}<secret>dialback-secret</secret>
<origins><ip>{ip}</ip></origins></local>
<io><max_fds>1024</max_fds></io><check><interval>5</interval><queue>10</queue><dnscache>300</dnscache></check>
<lookup><srv>xmpp-server</srv><srv>jabber</srv></lookup></s2s>""".format(LOG=LOG, **locals())


def router(ip, port, folder, *, pemfile=None, tls="", aliases=(), filtered=False, users=(), acls="", extra="", io="", check=""):
    """router.xml. `extra` holds what only jidmesh reads; `tls` what goes with the pemfile; `acls` further acl elements; users are (name, secret)."""
    pem = "<pemfile>%s</pemfile>%s" % (pemfile, tls) if pemfile else ""
    alias = "".join("<alias name='%s' target='%s'/>" % pair for pair in aliases)
    rules = "<filter>%s/filter.xml</filter>" % folder if filtered else ""
    return """<router><id>router</id>{LOG}
<local><ip>{ip}</ip><port>{port}</port><users>{folder}/users.xml</users><secret>{COMPONENT_SECRET}</secret>{pem}</local>
<check>{check}</check><io><max_fds>1024</max_fds>{io}</io><aliases>{alias}</aliases>
<aci><acl type='all'><user>{USER}</user></acl>{acls}{rules}</aci>
{extra}</router>""".format(LOG=LOG, COMPONENT_SECRET=COMPONENT_SECRET, USER=USER, **locals())


def users(more=()):
    everybody = [(USER, PASSWORD), *more]
    return "<users>%s</users>" % "".join("<user><name>%s</name><secret>%s</secret></user>" % pair for pair in everybody)


def uplink(ip, port, user, certificate=None):
    pin = "<certificate>%s</certificate>" % certificate if certificate else ""
    return "<uplink><ip>%s</ip><port>%d</port><user>%s</user><pass>%s</pass>%s</uplink>" % (ip, port, user, PASSWORD, pin)


def mesh(node, secrets, peers, more=""):
    return "<mesh><node>%s</node><local><ip>0.0.0.0</ip></local>%s%s%s</mesh>" % (
        node, "".join("<secret>%s</secret>" % secret for secret in secrets), "".join("<peer>%s</peer>" % peer for peer in peers), more)
