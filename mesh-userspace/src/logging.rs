//! The daemon's log on standard error: a line for people, or a JSON object for programs.

use std::{io::Write, time::SystemTime};

use env_logger::{Builder, fmt::Formatter};
use log::{LevelFilter, Record};

use crate::{config, config::words::LogFormat, events::unix_ms};

/// Starts logging as the configuration says. `format` goes before the configuration's, and the environment variable RUST_LOG before its levels.
pub fn start(log: &config::Log, format: Option<LogFormat>) {
    let mut logger = Builder::new();
    // The libraries below tell every step at the lower levels; RUST_LOG can ask for that.
    logger.filter_level(log.level.min(LevelFilter::Warn)).filter_module("mesh", log.level).filter_module("mesh_datapath", log.kernel);
    if format.unwrap_or(log.format) == LogFormat::Json {
        logger.format(|out: &mut Formatter, record: &Record<'_>| out.write_all(&json_line(record, SystemTime::now())));
    }
    logger.parse_default_env().init();
}

/// One record in one line: `time_ms` (since the Unix epoch, as in events), `level`, `target` and `message`.
fn json_line(record: &Record<'_>, now: SystemTime) -> Vec<u8> {
    let level = record.level().as_str().to_lowercase();
    let value =
        serde_json::json!({ "time_ms": unix_ms(now), "level": level, "target": record.target(), "message": record.args().to_string() });
    let mut line = value.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_record_is_one_line_whatever_it_says() {
        let text = "one\ntwo \"three\"";
        let args = format_args!("{text}");
        let record = Record::builder().level(log::Level::Warn).target("mesh::control").args(args).build();
        let line = json_line(&record, UNIX_EPOCH + Duration::from_millis(1500));
        let line = String::from_utf8(line).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value, serde_json::json!({ "time_ms": 1500, "level": "warn", "target": "mesh::control", "message": text }));
    }
}
