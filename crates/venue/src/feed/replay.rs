//! Public Binance files (<https://github.com/binance/binance-public-data>), merged by time.
//!
//! `trades`: id, price, qty, quote_qty, time, is_buyer_maker, is_best_match, without a header.
//! `bookTicker`: update_id, best_bid_price, best_bid_qty, best_ask_price, best_ask_qty, transaction_time, event_time,
//! with a header. Times are in milliseconds or (spot files since 2025) in microseconds; their size tells which.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use csv::{Reader, ReaderBuilder, StringRecord};
use trading::market::{Market, PublicTrade, Quote, Symbol};
use trading::time::Timestamp;

/// From here on a time is in microseconds: as milliseconds it would be after the year 5000.
const MICROS_FROM: i64 = 100_000_000_000_000;

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The file system refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is not CSV.
    #[error("{}, line {line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// In words.
        reason: String,
    },
    /// A field is missing or is not what it should be.
    #[error("{}, line {line}, {column}: {reason}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// Its name.
        column: &'static str,
        /// In words.
        reason: String,
    },
}

/// The events of one or two files, oldest first. Reads as it goes. A quote comes before a trade of the same time. Ends at
/// the first error.
#[derive(Debug)]
pub struct Replay {
    trades: Option<Lines>,
    book: Option<Lines>,
    next_trade: Option<Market>,
    next_quote: Option<Market>,
}

impl Replay {
    /// Opens the files of `symbol`.
    pub fn open(symbol: &Symbol, trades: Option<&Path>, book: Option<&Path>) -> Result<Self, FeedError> {
        let open = |path: Option<&Path>, parse| path.map(|path| Lines::open(path, symbol.clone(), parse)).transpose();
        let mut replay = Self {
            trades: open(trades, parse_trade)?,
            book: open(book, parse_quote)?,
            next_trade: None,
            next_quote: None,
        };
        replay.fill()?;
        Ok(replay)
    }

    fn fill(&mut self) -> Result<(), FeedError> {
        fill(&mut self.trades, &mut self.next_trade)?;
        fill(&mut self.book, &mut self.next_quote)
    }
}

impl Iterator for Replay {
    type Item = Result<Market, FeedError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            (self.trades, self.book, self.next_trade, self.next_quote) = (None, None, None, None);
            return Some(Err(error));
        }
        let trade_first = match (&self.next_trade, &self.next_quote) {
            (Some(trade), Some(quote)) => trade.at() < quote.at(),
            (trade, _) => trade.is_some(),
        };
        let next = if trade_first { &mut self.next_trade } else { &mut self.next_quote };
        next.take().map(Ok)
    }
}

/// Reads the next event of a file, unless it is read already.
fn fill(lines: &mut Option<Lines>, next: &mut Option<Market>) -> Result<(), FeedError> {
    if let (Some(open), None) = (lines.as_mut(), next.as_ref()) {
        *next = open.next_event()?;
        if next.is_none() {
            *lines = None;
        }
    }
    Ok(())
}

type Parse = fn(&Fields<'_>, Symbol) -> Result<Market, FeedError>;

#[derive(Debug)]
struct Lines {
    reader: Reader<File>,
    path: PathBuf,
    record: StringRecord,
    symbol: Symbol,
    parse: Parse,
}

impl Lines {
    fn open(path: &Path, symbol: Symbol, parse: Parse) -> Result<Self, FeedError> {
        let file = File::open(path).map_err(|source| FeedError::Io { path: path.to_owned(), source })?;
        let reader = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file);
        Ok(Self { reader, path: path.to_owned(), record: StringRecord::new(), symbol, parse })
    }

    fn next_event(&mut self) -> Result<Option<Market>, FeedError> {
        loop {
            let line = self.reader.position().line();
            let read = self.reader.read_record(&mut self.record).map_err(|error| {
                let (path, reason) = (self.path.clone(), error.to_string());
                match error.into_kind() {
                    csv::ErrorKind::Io(source) => FeedError::Io { path, source },
                    _ => FeedError::Line { path, line, reason },
                }
            })?;
            if !read {
                return Ok(None);
            }
            let header =
                line == 1 && self.record.get(0).is_some_and(|f| f.starts_with(|c: char| c.is_ascii_alphabetic()));
            if !header {
                let fields = Fields { path: &self.path, line, record: &self.record };
                return (self.parse)(&fields, self.symbol.clone()).map(Some);
            }
        }
    }
}

struct Fields<'a> {
    path: &'a Path,
    line: u64,
    record: &'a StringRecord,
}

impl Fields<'_> {
    fn error(&self, column: &'static str, reason: String) -> FeedError {
        FeedError::Field { path: self.path.to_owned(), line: self.line, column, reason }
    }

    fn text(&self, index: usize, column: &'static str) -> Result<&str, FeedError> {
        self.record.get(index).ok_or_else(|| self.error(column, "missing".into()))
    }

    fn parse<T: FromStr<Err: std::fmt::Display>>(&self, index: usize, column: &'static str) -> Result<T, FeedError> {
        self.text(index, column)?.parse().map_err(|error: T::Err| self.error(column, error.to_string()))
    }

    fn time(&self, index: usize, column: &'static str) -> Result<Timestamp, FeedError> {
        let number: i64 = self.parse(index, column)?;
        if number <= 0 {
            return Err(self.error(column, format!("`{number}` is not a time")));
        }
        Ok(if number >= MICROS_FROM { Timestamp::from_micros(number) } else { Timestamp::from_millis(number) })
    }

    fn flag(&self, index: usize, column: &'static str) -> Result<bool, FeedError> {
        match self.text(index, column)? {
            "True" | "true" => Ok(true),
            "False" | "false" => Ok(false),
            other => {
                let shown: String = other.chars().take(20).collect();
                Err(self.error(column, format!("`{shown}` is neither True nor False")))
            }
        }
    }
}

fn parse_trade(fields: &Fields<'_>, symbol: Symbol) -> Result<Market, FeedError> {
    Ok(Market::Trade(PublicTrade {
        symbol,
        price: fields.parse(1, "price")?,
        qty: fields.parse(2, "qty")?,
        buyer_is_maker: fields.flag(5, "is_buyer_maker")?,
        at: fields.time(4, "time")?,
    }))
}

fn parse_quote(fields: &Fields<'_>, symbol: Symbol) -> Result<Market, FeedError> {
    Ok(Market::Quote(Quote {
        symbol,
        bid: fields.parse(1, "best_bid_price")?,
        bid_qty: fields.parse(2, "best_bid_qty")?,
        ask: fields.parse(3, "best_ask_price")?,
        ask_qty: fields.parse(4, "best_ask_qty")?,
        at: fields.time(5, "transaction_time")?,
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const TRADES: &str = "1,87232.00000000,0.00012000,10.46784000,1742944020715000,True,True\n\
                          2,87232.01000000,0.02026000,1767.32052260,1742944020911000,False,True\n";
    const BOOK: &str = "update_id,best_bid_price,best_bid_qty,best_ask_price,best_ask_qty,transaction_time,event_time\n\
                        3,87232.00000000,2.42385000,87232.01000000,2.64517000,1742944020840,1742944020840\n\
                        4,87232.00000000,2.42373000,87232.01000000,2.64517000,1742944020911,1742944020911\n";

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn symbol() -> Symbol {
        "BTCUSDT".parse().unwrap()
    }

    #[test]
    fn trades_and_quotes_are_merged_by_time_whatever_the_unit() {
        let (trades, book) = (file(TRADES), file(BOOK));
        let replay = Replay::open(&symbol(), Some(trades.path()), Some(book.path())).unwrap();
        let events: Vec<Market> = replay.map(Result::unwrap).collect();
        let times: Vec<i64> = events.iter().map(|e| e.at().micros()).collect();
        assert_eq!(times, [1_742_944_020_715_000, 1_742_944_020_840_000, 1_742_944_020_911_000, 1_742_944_020_911_000]);
        assert!(matches!(&events[0], Market::Trade(t) if t.buyer_is_maker && t.qty.to_string() == "0.00012"));
        assert!(matches!(&events[1], Market::Quote(q) if q.ask.to_string() == "87232.01"));
        assert!(matches!(&events[2], Market::Quote(_)), "a quote comes before a trade of the same time");
    }

    #[test]
    fn one_file_is_enough_and_none_is_an_empty_feed() {
        let trades = file(TRADES);
        assert_eq!(Replay::open(&symbol(), Some(trades.path()), None).unwrap().count(), 2);
        assert_eq!(Replay::open(&symbol(), None, None).unwrap().count(), 0);
    }

    #[test]
    fn an_error_names_file_line_and_column_and_ends_the_feed() {
        for (bad, column) in [
            ("3,abc,1,1,1742944020911000,True,True", "price"),
            ("3,1,0,1,1,True,True", "qty"),
            ("3,1,1,1,-5,True,True", "time"),
            ("3,1,1,1,1742944020911000,maybe,True", "is_buyer_maker"),
            ("3,1", "qty"),
        ] {
            let trades = file(&format!("{TRADES}{bad}\n{TRADES}"));
            let mut replay = Replay::open(&symbol(), Some(trades.path()), None).unwrap();
            assert!(replay.by_ref().take(2).all(|event| event.is_ok()));
            let error = replay.next().unwrap().unwrap_err();
            assert!(matches!(&error, FeedError::Field { line: 3, column: c, .. } if *c == column), "{bad}: {error}");
            assert!(error.to_string().contains(trades.path().to_str().unwrap()));
            assert!(replay.next().is_none());
        }
    }

    #[test]
    fn a_file_that_does_not_exist_or_is_not_text_is_an_error() {
        assert!(matches!(Replay::open(&symbol(), Some(Path::new("/no/such/file")), None), Err(FeedError::Io { .. })));
        let mut binary = tempfile::NamedTempFile::new().unwrap();
        binary.write_all(b"1,\xff\xfe,3\n").unwrap();
        assert!(matches!(Replay::open(&symbol(), Some(binary.path()), None), Err(FeedError::Line { line: 1, .. })));
    }
}
