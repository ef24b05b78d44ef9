//! The supervisor's own log: one JSON object per line on stdout (`ts level msg event app …`), readable lines on a
//! terminal and, on request, a daily file by tracing-appender. Never blocks the loop: a thread writes. If the reader of
//! stdout is stuck, lines beyond a fixed limit are dropped and counted.
//!
//! Two fields are special. `entry` is a whole line of another log, such as an app's, and replaces our line.
//! `terminal_tail` is app output that is shown only on a terminal, because it must not leave the machine with the log.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, filter_fn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::host::sync::lock;
use crate::model::plain;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text on a terminal, else JSON.
    #[default]
    Auto,
    Json,
    Text,
}

/// The most bytes that wait for stdout's reader.
const BACKLOG: usize = 1 << 20;
/// A field's text is cut after this many bytes, to keep a line under 16 KiB.
const FIELD_LIMIT: usize = 6 << 10;
/// The field that is a whole line of another log. It is not cut; the sender keeps it short enough.
const ENTRY: &str = "entry";
/// The field that is shown only on a terminal.
const TERMINAL_TAIL: &str = "terminal_tail";

/// Keeps the log running. When dropped, writes what still waits, for at most half a second.
pub struct Journal {
    backlog: Arc<Backlog>,
    _file: Option<WorkerGuard>,
}

impl Journal {
    /// Starts the log of this process. With `folder`, also writes `kasm-void.DATE.log` files there and keeps seven.
    pub fn start(format: Format, folder: Option<&Path>) -> anyhow::Result<Journal> {
        let terminal = io::stdout().is_terminal();
        let lines = match format {
            Format::Auto if !terminal => Lines::Json,
            Format::Json => Lines::Json,
            Format::Auto | Format::Text => {
                Lines::Text { terminal, colour: terminal && std::env::var_os("NO_COLOR").is_none() }
            }
        };
        let backlog = Arc::new(Backlog::default());
        let stdout = tracing_subscriber::fmt::layer().event_format(lines).with_writer(Stdout(backlog.clone()));
        let (file_layer, guard) = match folder {
            None => (None, None),
            Some(folder) => {
                let rolling = tracing_appender::rolling::Builder::new()
                    .rotation(tracing_appender::rolling::Rotation::DAILY)
                    .filename_prefix("kasm-void")
                    .filename_suffix("log")
                    .max_log_files(7)
                    .build(folder)?;
                let (writer, guard) = tracing_appender::non_blocking::NonBlockingBuilder::default()
                    .buffered_lines_limit(512)
                    .finish(rolling);
                let layer = tracing_subscriber::fmt::layer().event_format(Lines::Json);
                (Some(layer.with_writer(writer)), Some(guard))
            }
        };
        let filter = shown(level_wanted());
        tracing_subscriber::registry().with(stdout.with_filter(filter)).with(file_layer).try_init()?;
        let writer = backlog.clone();
        std::thread::Builder::new().name("journal".into()).stack_size(128 << 10).spawn(move || writer.write_out())?;
        Ok(Journal { backlog, _file: guard })
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.backlog.finish(Duration::from_millis(500));
    }
}

/// The level from `KASM_VOID_LOG`, such as `debug`. The default is `info`.
fn level_wanted() -> Level {
    std::env::var("KASM_VOID_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(Level::INFO)
}

/// Lines of this level and above. Those of libraries only when somebody looks for a fault: they have no `event`, and what
/// matters of them is in a line of ours.
fn shown(level: Level) -> FilterFn<impl Fn(&Metadata<'_>) -> bool> {
    let is_shown = move |line: &Metadata<'_>| {
        *line.level() <= level && (level > Level::INFO || line.target().starts_with(env!("CARGO_CRATE_NAME")))
    };
    filter_fn(is_shown).with_max_level_hint(level)
}

/// The lines between the loop and the writing thread.
#[derive(Default)]
struct Backlog {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<u8>,
    dropped: u64,
    writing: bool,
    finished: bool,
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        lock(&self.waiting)
    }

    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines.len() + line.len() > BACKLOG {
            waiting.dropped += 1;
            return;
        }
        let wake = waiting.lines.is_empty() && !waiting.writing;
        waiting.lines.extend(line);
        drop(waiting);
        if wake {
            self.changed.notify_all();
        }
    }

    fn write_out(&self) {
        let mut waiting = self.lock();
        loop {
            if waiting.lines.is_empty() {
                waiting.writing = false;
                self.changed.notify_all();
                if waiting.finished {
                    return;
                }
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            waiting.writing = true;
            let lines = std::mem::take(&mut waiting.lines);
            let dropped = std::mem::take(&mut waiting.dropped);
            drop(waiting);
            write_lines(lines, dropped);
            waiting = self.lock();
        }
    }

    fn finish(&self, within: Duration) {
        let mut waiting = self.lock();
        waiting.finished = true;
        self.changed.notify_all();
        let busy = |waiting: &mut Waiting| !waiting.lines.is_empty() || waiting.writing;
        drop(self.changed.wait_timeout_while(waiting, within, busy));
    }
}

/// Ignores errors: if stdout is closed, they cannot be reported anywhere.
fn write_lines(lines: VecDeque<u8>, dropped: u64) {
    let mut stdout = io::stdout().lock();
    let (first, second) = lines.as_slices();
    let _ = stdout.write_all(first);
    let _ = stdout.write_all(second);
    if dropped > 0 {
        let _ = writeln!(
            stdout,
            "{}",
            serde_json::json!({"level": "warn", "msg": format!("{dropped} log lines dropped: stdout is not being read"), "event": "log.dropped"})
        );
    }
    let _ = stdout.flush();
}

#[derive(Clone)]
struct Stdout(Arc<Backlog>);

impl Write for Stdout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Stdout {
    type Writer = Stdout;

    fn make_writer(&self) -> Stdout {
        self.clone()
    }
}

/// Formats an event as a line.
enum Lines {
    Json,
    Text { terminal: bool, colour: bool },
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = event.metadata().level();
        match self {
            Lines::Json => writer.write_str(&plain::json(&fields.json(level))),
            Lines::Text { terminal, colour } => writer.write_str(&fields.text(level, *terminal, *colour)),
        }?;
        writer.write_char('\n')
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: serde_json::Map<String, serde_json::Value>,
}

impl Fields {
    fn json(mut self, level: &Level) -> String {
        if let Some(serde_json::Value::String(entry)) = self.others.remove(ENTRY) {
            return entry;
        }
        self.others.remove(TERMINAL_TAIL);
        let mut line = serde_json::Map::new();
        line.insert("ts".into(), humantime::format_rfc3339_millis(SystemTime::now()).to_string().into());
        line.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        line.insert("msg".into(), self.message.into());
        line.extend(self.others);
        serde_json::Value::Object(line).to_string()
    }

    fn text(self, level: &Level, terminal: bool, colour: bool) -> String {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (on, off) = match (colour, *level) {
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        let (level, message) = (level.as_str().to_ascii_lowercase(), plain::text(&self.message));
        // Only the time of day, with the Z of UTC.
        let mut line = format!("{} {on}{level:5}{off} {message}", &time[11..]);
        let shown = |name: &str| match name {
            "tail" | "error" | "help" => true,
            TERMINAL_TAIL => terminal,
            _ => false,
        };
        for (name, value) in self.others.iter().filter(|(name, _)| shown(name)) {
            let text = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
            // The message already contains it. The field is for machines.
            if self.message.contains(&text) {
                continue;
            }
            let name = if name == TERMINAL_TAIL { "tail" } else { name };
            for part in text.lines() {
                let _ = write!(line, "\n          {name}: {}", plain::text(part));
            }
        }
        line
    }

    fn put(&mut self, field: &Field, value: serde_json::Value) {
        self.others.insert(field.name().into(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let limit = if field.name() == ENTRY { usize::MAX } else { FIELD_LIMIT };
        let mut end = value.len().min(limit);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        match field.name() {
            "message" => self.message = value[..end].into(),
            _ => self.put(field, value[..end].into()),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line that a subscriber with our format writes.
    fn line(lines: Lines, log: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Page(Arc<Mutex<Vec<u8>>>);
        impl Write for Page {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let page = Page::default();
        let to = page.clone();
        let layer = tracing_subscriber::fmt::layer().event_format(lines).with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_begins_with_what_the_cluster_reads() {
        let text = line(Lines::Json, || {
            tracing::warn!(event = "app.crashed", app = "web", run = 3u64, tail = "a\nb", "web crashed")
        });
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["ts", "level", "msg", "event", "app", "run", "tail"]);
        assert_eq!((&value["level"], &value["msg"], &value["run"]), (&"warn".into(), &"web crashed".into(), &3.into()));
    }

    #[test]
    fn a_line_stays_under_sixteen_kibibytes() {
        let long = "é".repeat(20_000);
        let text = line(Lines::Json, || tracing::info!(tail = long, "{long}"));
        assert!(text.len() < 16 << 10, "{}", text.len());
    }

    const TEXT: Lines = Lines::Text { terminal: false, colour: false };
    const TERMINAL: Lines = Lines::Text { terminal: true, colour: false };

    #[test]
    fn a_text_line_says_the_message_and_the_tail_without_control_bytes() {
        let text = line(TEXT, || tracing::warn!(event = "app.crashed", tail = "one\ntwo\x1b[2J", "web crashed"));
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z'), "{text}");
        assert_eq!(rest, "warn  web crashed\n          tail: one\n          tail: two\\u{1b}[2J\n");
    }

    #[test]
    fn nothing_in_a_line_commands_the_terminal_that_shows_it() {
        let name = "a\x1b[2J\u{9b}31m\u{202e}.ron";
        for lines in [TEXT, TERMINAL, Lines::Json] {
            let text = line(lines, || tracing::error!(file = name, error = name, "cannot read {name}"));
            assert!(!text.contains(['\x1b', '\u{9b}', '\u{202e}']), "{text:?}");
        }
        let json = line(Lines::Json, || tracing::error!(file = name, "x"));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["file"], name);
    }

    #[test]
    fn output_for_a_terminal_alone_goes_to_no_log_that_is_collected() {
        let log = || tracing::warn!(event = "app.crashed", terminal_tail = "https://site/?token=s3cr3t", "web crashed");
        assert!(line(TERMINAL, log).contains("tail: https://site/?token=s3cr3t"));
        for lines in [TEXT, Lines::Json] {
            let text = line(lines, log);
            assert!(text.contains("web crashed") && !text.contains("s3cr3t"), "{text}");
        }
    }

    #[test]
    fn a_line_of_an_apps_own_log_is_passed_on_as_it_is() {
        let entry = r#"{"level":"warn","msg":"refused","event":"launcher.request","app":"shim"}"#;
        let log = || tracing::warn!(entry, "refused");
        assert_eq!(line(Lines::Json, log), format!("{entry}\n"));
        assert!(line(TEXT, log).ends_with("Z warn  refused\n"));
    }

    #[test]
    fn a_reader_that_never_reads_costs_lines_not_memory() {
        let backlog = Backlog::default();
        for _ in 0..20_000 {
            backlog.push(&[b'x'; 1000]);
        }
        let waiting = backlog.lock();
        assert!(waiting.lines.len() <= BACKLOG && waiting.dropped > 18_000);
    }
}
