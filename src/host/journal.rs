//! The supervisor's own log: one JSON object a line on stdout (`ts level msg event app …`), readable lines
//! on a terminal, and a daily file by tracing-appender when asked. Never blocks the loop: a thread writes,
//! and what a stuck reader of stdout does not take within a bound is dropped and counted.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Readable on a terminal, else JSON.
    #[default]
    Auto,
    Json,
    Text,
}

/// Bytes that may wait for stdout's reader.
const BACKLOG: usize = 1 << 20;
/// A field's text is cut here, so that a line stays under 16 KiB.
const FIELD_LIMIT: usize = 6 << 10;

/// Keeps the log going; dropping it writes what waits, for half a second at most.
pub struct Journal {
    backlog: Arc<Backlog>,
    _file: Option<WorkerGuard>,
}

impl Journal {
    /// Starts the log of this process. `folder`: also write `kasm-void.DATE.log` files there, seven kept.
    pub fn start(format: Format, folder: Option<&Path>) -> anyhow::Result<Journal> {
        let json = match format {
            Format::Auto => !io::stdout().is_terminal(),
            Format::Json => true,
            Format::Text => false,
        };
        let colour = !json && io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let backlog = Arc::new(Backlog::default());
        let stdout =
            tracing_subscriber::fmt::layer().event_format(Lines { json, colour }).with_writer(Stdout(backlog.clone()));
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
                let layer = tracing_subscriber::fmt::layer().event_format(Lines { json: true, colour: false });
                (Some(layer.with_writer(writer)), Some(guard))
            }
        };
        let level = tracing_subscriber::filter::LevelFilter::from_level(level_wanted());
        tracing_subscriber::registry().with(stdout.with_filter(level)).with(file_layer).try_init()?;
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

/// `KASM_VOID_LOG=debug` tells more; the default is `info`.
fn level_wanted() -> Level {
    std::env::var("KASM_VOID_LOG").ok().and_then(|text| text.parse().ok()).unwrap_or(Level::INFO)
}

/// Lines between the loop and the thread that writes them.
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A closed stdout is nobody's fault and nothing can be said about it.
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

struct Lines {
    json: bool,
    colour: bool,
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
        match self.json {
            true => writer.write_str(&fields.json(level)),
            false => writer.write_str(&fields.text(level, self.colour)),
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
    fn json(self, level: &Level) -> String {
        let mut line = serde_json::Map::new();
        line.insert("ts".into(), humantime::format_rfc3339_millis(SystemTime::now()).to_string().into());
        line.insert("level".into(), level.as_str().to_ascii_lowercase().into());
        line.insert("msg".into(), self.message.into());
        line.extend(self.others);
        serde_json::Value::Object(line).to_string()
    }

    fn text(self, level: &Level, colour: bool) -> String {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (on, off) = match (colour, *level) {
            (true, Level::ERROR) => ("\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[33m", "\x1b[0m"),
            _ => ("", ""),
        };
        let mut line = format!("{} {on}{:5}{off} {}", &time[11..19], level.as_str().to_ascii_lowercase(), self.message);
        for (name, value) in self.others.iter().filter(|(name, _)| matches!(name.as_str(), "tail" | "error" | "help")) {
            let text = value.as_str().map_or_else(|| value.to_string(), ToString::to_string);
            for part in text.lines() {
                let _ = write!(line, "\n         {name}: {}", part.escape_debug());
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
        let mut end = value.len().min(FIELD_LIMIT);
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

    /// What a subscriber with our format writes.
    fn line(json: bool, log: impl FnOnce()) -> String {
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
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines { json, colour: false })
            .with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_begins_with_what_the_cluster_reads() {
        let text =
            line(true, || tracing::warn!(event = "app.crashed", app = "web", run = 3u64, tail = "a\nb", "web crashed"));
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["ts", "level", "msg", "event", "app", "run", "tail"]);
        assert_eq!((&value["level"], &value["msg"], &value["run"]), (&"warn".into(), &"web crashed".into(), &3.into()));
    }

    #[test]
    fn a_line_stays_under_sixteen_kibibytes() {
        let long = "é".repeat(20_000);
        let text = line(true, || tracing::info!(tail = long, "{long}"));
        assert!(text.len() < 16 << 10, "{}", text.len());
    }

    #[test]
    fn a_terminal_line_says_the_message_and_the_tail_with_control_bytes_escaped() {
        let text = line(false, || tracing::warn!(event = "app.crashed", tail = "one\ntwo\x1b[2J", "web crashed"));
        assert!(text.contains("warn  web crashed\n         tail: one\n         tail: two\\u{1b}[2J"), "{text}");
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
