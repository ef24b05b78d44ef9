//! Ways of a page to reach a host: navigations, frames, subresources, scripts, workers, sockets and headers. Each is a page
//! of its own, for a host of its own.

use super::{Answer, page, says};

/// How a way shows that it was tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trace {
    /// The browser asks the proxy for the host.
    Asks,
    /// The browser may not ask at all: it gives up before, or has the feature switched off.
    MayAsk,
}

/// One way: its name, the page, and other pages that it needs.
pub struct Way {
    pub name: &'static str,
    pub page: Answer,
    pub trace: Trace,
    /// The browser loads media only while the tab is in front.
    pub in_front: bool,
    pub others: Vec<(&'static str, Answer)>,
}

fn way(name: &'static str, page: Answer) -> Way {
    Way { name, page, trace: Trace::Asks, in_front: false, others: Vec::new() }
}

fn html(name: &'static str, body: String) -> Way {
    way(name, page("way", &body))
}

fn script(name: &'static str, text: String) -> Way {
    html(name, format!("<body><script>{text}</script>"))
}

fn module(name: &'static str, text: String) -> Way {
    html(name, format!("<body><script type=module>{text}</script>"))
}

fn header(name: &'static str, header: String) -> Way {
    way(name, says("200 OK", &format!("Content-Type: text/html\r\n{header}"), "<!doctype html><title>way</title>"))
}

impl Way {
    fn may_ask(self) -> Way {
        Way { trace: Trace::MayAsk, ..self }
    }

    fn in_front(self) -> Way {
        Way { in_front: true, ..self }
    }

    fn with(mut self, path: &'static str, kind: &str, text: String) -> Way {
        self.others.push((path, says("200 OK", &format!("Content-Type: {kind}"), &text)));
        self
    }
}

const JS: &str = "text/javascript";

/// All ways to this host, which is a name.
pub fn ways(host: &str) -> Vec<Way> {
    let t = format!("http://{host}/x");
    let mut all = navigations(&t);
    all.extend(frames(&t));
    all.extend(elements(&t));
    all.extend(styles(&t));
    all.extend(hints(&t));
    all.extend(scripts(&t, host));
    all.extend(workers(&t, host));
    all.extend(sockets(host));
    all.extend(headers(&t));
    all
}

/// The names and places of all ways, to give each a host of its own.
pub fn count() -> usize {
    ways("x").len()
}

fn navigations(t: &str) -> Vec<Way> {
    let form = |name, method: &str, more: &str| {
        script(
            name,
            format!(
                "const form = document.createElement('form'); form.method = '{method}'; form.action = '{t}'; {more}; \
                 document.body.append(form); form.submit()"
            ),
        )
    };
    let link = |name, more: &str| {
        script(
            name,
            format!(
                "const a = document.createElement('a'); a.href = '{t}'; {more}; document.body.append(a); a.click()"
            ),
        )
    };
    let redirect = |name, status: &str| way(name, says(status, &format!("Location: {t}"), ""));
    vec![
        script("location", format!("location = '{t}'")),
        script("assign", format!("location.assign('{t}')")),
        script("replace", format!("location.replace('{t}')")),
        script("later", format!("setTimeout(() => location = '{t}', 1500)")),
        script("navigation", format!("navigation.navigate('{t}')")),
        form("get", "get", ""),
        form("post", "post", ""),
        form("upload", "post", "form.enctype = 'multipart/form-data'"),
        form("form-in-a-window", "post", "form.target = '_blank'"),
        form("form-in-a-frame", "post", "document.body.innerHTML = '<iframe name=f></iframe>'; form.target = 'f'"),
        link("link", ""),
        link("link-in-a-window", "a.target = '_blank'"),
        link("link-without-opener", "a.target = '_blank'; a.rel = 'noopener noreferrer'"),
        link("ping", &format!("a.href = '#x'; a.ping = '{t}'")),
        link("download", "a.download = 'x'"),
        script(
            "base",
            format!(
                "document.head.innerHTML = '<base href=\"{t}\">'; const a = document.createElement('a'); \
            a.href = 'y'; document.body.append(a); a.click()"
            ),
        ),
        script(
            "area",
            format!(
                "document.body.innerHTML = '<map><area shape=default href=\"{t}\"></map>'; \
            document.querySelector('area').click()"
            ),
        ),
        script("window-open", format!("open('{t}')")),
        script(
            "window-then-location",
            format!("const w = open('about:blank'); setTimeout(() => w.location = '{t}', 100)"),
        ),
        script("window-writes", format!("const w = open('about:blank'); w.document.write('<img src=\"{t}\">')")),
        html("meta-refresh", format!("<meta http-equiv=refresh content='0;url={t}'>")),
        html("meta-refresh-later", format!("<meta http-equiv=refresh content='1;url={t}'>")),
        redirect("redirect-301", "301 Moved"),
        redirect("redirect-302", "302 Found"),
        redirect("redirect-303", "303 See Other"),
        redirect("redirect-307", "307 Temporary Redirect"),
        redirect("redirect-308", "308 Permanent Redirect"),
    ]
}

fn frames(t: &str) -> Vec<Way> {
    vec![
        html("iframe", format!("<iframe src='{t}'></iframe>")),
        html("iframe-sandboxed", format!("<iframe sandbox src='{t}'></iframe>")),
        html("iframe-srcdoc", format!("<iframe srcdoc=\"<iframe src='{t}'></iframe>\"></iframe>")),
        html("iframe-in-data", format!("<iframe src=\"data:text/html,<img src='{t}'>\"></iframe>")),
        script(
            "iframe-in-blob",
            format!(
                "const f = document.createElement('iframe'); f.src = URL.createObjectURL(new Blob(['<img src=\"{t}\">'], \
             {{ type: 'text/html' }})); document.body.append(f)"
            ),
        ),
        html("frameset", format!("<frameset><frame src='{t}'></frameset>")),
        html("object", format!("<object data='{t}' type='text/html'></object>")),
        html("object-image", format!("<object data='{t}' type='image/svg+xml'></object>")),
        html("embed", format!("<embed src='{t}' type='text/html'>")),
        html("embed-image", format!("<embed src='{t}' type='image/png'>")),
        html("fenced-frame", format!("<fencedframe src='{t}'></fencedframe>")).may_ask(),
    ]
}

fn elements(t: &str) -> Vec<Way> {
    vec![
        html("img", format!("<img src='{t}'>")),
        html("img-cors", format!("<img crossorigin src='{t}'>")),
        html("img-srcset", format!("<img srcset='{t} 1x'>")),
        html("picture", format!("<picture><source srcset='{t}'><img></picture>")),
        html("input-image", format!("<input type=image src='{t}'>")),
        html("body-background", format!("<body background='{t}'>x")),
        html("table-background", format!("<table background='{t}'><tr><td>x</table>")),
        html("video", format!("<video src='{t}' preload=auto autoplay muted></video>")).in_front(),
        html("video-poster", format!("<video poster='{t}'></video>")).in_front(),
        html("video-source", format!("<video autoplay muted><source src='{t}' type='video/webm'></video>")).in_front(),
        html("audio", format!("<audio src='{t}' preload=auto></audio>")).in_front(),
        html(
            "track",
            format!(
                "<video crossorigin><track default kind=subtitles src='{t}'></video>\
             <script>document.querySelector('track').track.mode = 'showing'</script>"
            ),
        )
        .in_front(),
        html("svg-image", format!("<svg><image href='{t}' width=9 height=9 /></svg>")),
        html("svg-use", format!("<svg><use href='{t}#x' /></svg>")).may_ask(),
        html(
            "svg-filter",
            format!(
                "<svg><filter id=f><feImage href='{t}' /></filter><rect filter='url(#f)' width=9 height=9 /></svg>"
            ),
        ),
        html("svg-script", format!("<svg><script href='{t}'></script></svg>")),
        html("script", format!("<script src='{t}'></script>")),
        html("script-async", format!("<script async src='{t}'></script>")),
        html("script-module", format!("<script type=module src='{t}'></script>")),
        html("script-written", format!("<script>document.write('<script src=\"{t}\"><\\/script>')</script>")),
    ]
}

fn styles(t: &str) -> Vec<Way> {
    let rule = |name, rule: String| html(name, format!("<style>{rule}</style><p class=x>x</p><ul><li>x</ul>"));
    vec![
        html("stylesheet", format!("<link rel=stylesheet href='{t}'>")),
        html("stylesheet-alternate", format!("<link rel='alternate stylesheet' title=y href='{t}'>")),
        rule("css-import", format!("@import url('{t}');")),
        rule("css-background", format!("p {{ background: url('{t}') }}")),
        rule("css-image-set", format!("p {{ background: image-set(url('{t}') 1x) }}")),
        rule("css-border", format!("p {{ border: 9px solid; border-image: url('{t}') 1 }}")),
        rule("css-list", format!("li {{ list-style-image: url('{t}') }}")),
        rule("css-content", format!("p::before {{ content: url('{t}') }}")),
        rule("css-mask", format!("p {{ mask: url('{t}') }}")),
        rule("css-shape", format!("p {{ float: left; shape-outside: url('{t}') }}")),
        rule("css-font", format!("@font-face {{ font-family: f; src: url('{t}') }} p {{ font-family: f }}")),
        rule("css-filter", format!("p {{ filter: url('{t}#f') }}")).may_ask(),
        rule("css-cursor", format!("html {{ cursor: url('{t}'), auto }}")).may_ask(),
        script(
            "css-rule-by-script",
            format!(
                "document.body.innerHTML = '<style></style><p>x</p>'; \
             document.styleSheets[0].insertRule(\"p {{ background: url('{t}') }}\")"
            ),
        ),
        script("font-face", format!("new FontFace('f', 'url({t})').load()")),
    ]
}

fn hints(t: &str) -> Vec<Way> {
    let link = |name, attributes: &str| html(name, format!("<link {attributes} href='{t}'>"));
    let speculation = |name, kind: &str| {
        script(
            name,
            format!(
                "const rules = document.createElement('script'); rules.type = 'speculationrules'; \
                 rules.textContent = JSON.stringify({{ {kind}: [{{ source: 'list', urls: ['{t}'] }}] }}); \
                 document.head.append(rules)"
            ),
        )
    };
    vec![
        link("preload-script", "rel=preload as=script"),
        link("preload-image", "rel=preload as=image"),
        link("preload-font", "rel=preload as=font crossorigin"),
        link("preload-style", "rel=preload as=style"),
        link("preload-fetch", "rel=preload as=fetch crossorigin"),
        link("modulepreload", "rel=modulepreload"),
        link("prefetch", "rel=prefetch"),
        link("icon", "rel=icon").may_ask(),
        link("apple-icon", "rel=apple-touch-icon").may_ask(),
        link("manifest", "rel=manifest").may_ask(),
        link("preconnect", "rel=preconnect").may_ask(),
        link("dns-prefetch", "rel=dns-prefetch").may_ask(),
        link("prerender", "rel=prerender").may_ask(),
        link("compression-dictionary", "rel=compression-dictionary").may_ask(),
        speculation("speculation-prefetch", "prefetch").may_ask(),
        speculation("speculation-prerender", "prerender").may_ask(),
    ]
}

fn scripts(t: &str, host: &str) -> Vec<Way> {
    vec![
        script("image-object", format!("new Image().src = '{t}'")),
        script("audio-object", format!("new Audio('{t}').load()")).in_front(),
        script("fetch", format!("fetch('{t}')")),
        script("fetch-opaque", format!("fetch('{t}', {{ mode: 'no-cors', credentials: 'include' }})")),
        script("fetch-post", format!("fetch('{t}', {{ method: 'POST', body: 'x' }})")),
        script("fetch-preflight", format!("fetch('{t}', {{ method: 'PUT', headers: {{ 'X-Y': 'z' }} }})")),
        script("fetch-keepalive", format!("fetch('{t}', {{ keepalive: true, mode: 'no-cors' }})")),
        script(
            "fetch-on-leaving",
            format!(
                "onpagehide = () => fetch('{t}', {{ keepalive: true, mode: 'no-cors' }}); setTimeout(() => location = '/', 100)"
            ),
        ),
        script("fetch-local", format!("fetch('{t}', {{ targetAddressSpace: 'local', mode: 'no-cors' }})")).may_ask(),
        script("fetch-loopback", format!("fetch('{t}', {{ targetAddressSpace: 'loopback', mode: 'no-cors' }})"))
            .may_ask(),
        script("fetch-https", format!("fetch('https://{host}/', {{ mode: 'no-cors' }})")),
        script("fetch-other-port", format!("fetch('http://{host}:8080/', {{ mode: 'no-cors' }})")),
        script("fetch-redirected", "fetch('/redirect-302', { mode: 'no-cors' })".into()).may_ask(),
        script("xhr", format!("const x = new XMLHttpRequest(); x.open('GET', '{t}'); x.send()")),
        script(
            "xhr-sync",
            format!("const x = new XMLHttpRequest(); x.open('POST', '{t}', false); try {{ x.send() }} catch {{}}"),
        ),
        script("beacon", format!("navigator.sendBeacon('{t}', 'x')")),
        script("event-source", format!("new EventSource('{t}')")),
        module("import", format!("import '{t}'")),
        script("import-dynamic", format!("import('{t}').catch(() => 0)")),
        html(
            "import-map",
            format!(
                "<script type=importmap>{{ \"imports\": {{ \"x\": \"{t}\" }} }}</script><script type=module>import 'x'</script>"
            ),
        ),
        script("paint-worklet", format!("CSS.paintWorklet.addModule('{t}')")).may_ask(),
        script("audio-worklet", format!("new OfflineAudioContext(1, 1, 44100).audioWorklet.addModule('{t}')"))
            .may_ask(),
        script(
            "document-xml",
            format!(
                "document.body.append(new DOMParser().parseFromString('<x><img xmlns=\"http://www.w3.org/1999/xhtml\" src=\"{t}\"/></x>', \
             'text/xml').querySelector('img'))"
            ),
        ),
        script(
            "notification-of-violation",
            format!(
                "document.body.innerHTML = '<iframe srcdoc=\"<meta http-equiv=Content-Security-Policy content=&quot;img-src *&quot;>\
             <img src={t}>\"></iframe>'"
            ),
        ),
    ]
}

fn workers(t: &str, host: &str) -> Vec<Way> {
    vec![
        script("worker", "new Worker('/in-worker.js')".into()).with("/in-worker.js", JS, format!("fetch('{t}')")),
        script("worker-imports", "new Worker('/worker-imports.js')".into()).with(
            "/worker-imports.js",
            JS,
            format!("importScripts('{t}')"),
        ),
        script("worker-module", "new Worker('/worker-module.js', { type: 'module' })".into()).with(
            "/worker-module.js",
            JS,
            format!("import '{t}'"),
        ),
        script(
            "worker-in-blob",
            format!("new Worker(URL.createObjectURL(new Blob([`fetch('{t}', {{ mode: 'no-cors' }})`])))"),
        ),
        script("worker-socket", "new Worker('/worker-socket.js')".into()).with(
            "/worker-socket.js",
            JS,
            format!("new WebSocket('ws://{host}/')"),
        ),
        script("shared-worker", "new SharedWorker('/shared-worker.js')".into()).with(
            "/shared-worker.js",
            JS,
            format!("fetch('{t}', {{ mode: 'no-cors' }})"),
        ),
        script("service-worker", "navigator.serviceWorker.register('/service/worker.js')".into()).with(
            "/service/worker.js",
            JS,
            format!("fetch('{t}', {{ mode: 'no-cors' }})"),
        ),
        script("service-worker-imports", "navigator.serviceWorker.register('/service2/worker.js')".into()).with(
            "/service2/worker.js",
            JS,
            format!("importScripts('{t}')"),
        ),
    ]
}

fn sockets(host: &str) -> Vec<Way> {
    let rtc = |name, servers: String| {
        script(
            name,
            format!(
                "const pc = new RTCPeerConnection({{ iceServers: [{servers}] }}); pc.createDataChannel('x'); \
                 pc.createOffer().then(offer => pc.setLocalDescription(offer))"
            ),
        )
    };
    vec![
        script("websocket", format!("new WebSocket('ws://{host}/')")),
        script("websocket-secure", format!("new WebSocket('wss://{host}/')")),
        script("websocket-other-port", format!("new WebSocket('ws://{host}:8080/')")),
        script("websocket-stream", format!("new WebSocketStream('ws://{host}/')")).may_ask(),
        script("web-transport", format!("new WebTransport('https://{host}/')")).may_ask(),
        rtc("rtc-stun", format!("{{ urls: 'stun:{host}:3478' }}")).may_ask(),
        rtc("rtc-stun-address", "{ urls: 'stun:10.0.0.1:3478' }".into()).may_ask(),
        rtc("rtc-turn", format!("{{ urls: 'turn:{host}:3478', username: 'x', credential: 'y' }}")).may_ask(),
        rtc("rtc-turn-tcp", format!("{{ urls: 'turn:{host}:8080?transport=tcp', username: 'x', credential: 'y' }}")).may_ask(),
        rtc("rtc-turn-tcp-address", "{ urls: 'turn:10.0.0.1:80?transport=tcp', username: 'x', credential: 'y' }".into())
            .may_ask(),
        script("rtc-candidate", "const a = new RTCPeerConnection(), b = new RTCPeerConnection(); a.createDataChannel('x'); \
            a.createOffer().then(async offer => { await a.setLocalDescription(offer); await b.setRemoteDescription(offer); \
            const answer = await b.createAnswer(); await b.setLocalDescription(answer); await a.setRemoteDescription(answer); \
            for (const protocol of ['udp', 'tcp']) for (const port of [443, 3478, 8080]) await a.addIceCandidate({ \
            sdpMid: '0', candidate: `candidate:1 1 ${protocol} 2122260223 10.0.0.1 ${port} typ host${protocol == 'tcp' ? \
            ' tcptype passive' : ''}` }) })".into())
        .may_ask(),
    ]
}

fn headers(t: &str) -> Vec<Way> {
    vec![
        header("header-refresh", format!("Refresh: 0;url={t}")),
        header("header-preload", format!("Link: <{t}>; rel=preload; as=script")),
        header("header-stylesheet", format!("Link: <{t}>; rel=stylesheet")).may_ask(),
        header("header-preconnect", format!("Link: <{t}>; rel=preconnect")).may_ask(),
        way(
            "header-violation",
            says(
                "200 OK",
                &format!(
                    "Content-Type: text/html\r\nContent-Security-Policy-Report-Only: img-src 'none'; report-uri {t}"
                ),
                "<!doctype html><img src='/nothing'>",
            ),
        ),
    ]
}
