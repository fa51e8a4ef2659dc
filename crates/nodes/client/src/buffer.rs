//! Bytes of one file that were written and not yet handed to the chunk servers: extents in order that do not overlap,
//! none across a window, so that an extent is never longer than a record.

use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// Dirty bytes of a file.
#[derive(Debug)]
pub(crate) struct Buffer {
    window: u64,
    /// By first byte.
    extents: BTreeMap<u64, BytesMut>,
    bytes: u64,
}

/// Consecutive bytes to be written, within one window.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub offset: u64,
    pub data: Bytes,
}

impl Buffer {
    /// An empty buffer; `window` is the longest record in bytes.
    pub fn new(window: u32) -> Buffer {
        Buffer { window: u64::from(window), extents: BTreeMap::new(), bytes: 0 }
    }
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
    /// Dirty bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Behind the last dirty byte; 0 = nothing is dirty.
    pub fn end(&self) -> u64 {
        self.extents.last_key_value().map_or(0, |(at, e)| at + e.len() as u64)
    }

    /// Takes `data` at `offset`; it replaces what was there.
    pub fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.window - offset % self.window;
            let n = (data.len() as u64).min(room) as usize;
            self.put(offset, &data[..n]);
            offset += n as u64;
            data = &data[n..];
        }
    }
    /// `data` lies within one window.
    fn put(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        if let Some((&at, e)) = self.extents.range_mut(..=offset).next_back()
            && at + e.len() as u64 >= end
        {
            let skip = (offset - at) as usize;
            e[skip..skip + data.len()].copy_from_slice(data);
            return;
        }
        self.cut_out(offset, end);
        self.bytes += data.len() as u64;
        if let Some((&at, e)) = self.extents.range_mut(..offset).next_back()
            && at + e.len() as u64 == offset
            && at / self.window == offset / self.window
        {
            e.extend_from_slice(data);
            return;
        }
        self.extents.insert(offset, BytesMut::from(data));
    }
    /// Forgets the bytes from `start` to `end`.
    fn cut_out(&mut self, start: u64, end: u64) {
        if let Some((&at, e)) = self.extents.range_mut(..start).next_back()
            && at + e.len() as u64 > start
        {
            let mut tail = e.split_off((start - at) as usize);
            self.bytes -= tail.len() as u64;
            if start + tail.len() as u64 > end {
                let kept = tail.split_off((end - start) as usize);
                self.bytes += kept.len() as u64;
                self.extents.insert(end, kept);
            }
        }
        while let Some((&at, _)) = self.extents.range(start..end).next() {
            let Some(mut e) = self.extents.remove(&at) else { break };
            self.bytes -= e.len() as u64;
            if at + e.len() as u64 > end {
                let kept = e.split_off((end - at) as usize);
                self.bytes += kept.len() as u64;
                self.extents.insert(end, kept);
            }
        }
    }

    /// Is any byte from `start` to `end` dirty?
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        self.extents.range(..end).next_back().is_some_and(|(at, e)| at + e.len() as u64 > start)
    }
    /// Dirty ranges within `start`..`end`: (offset, length).
    pub fn ranges(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        self.pieces(start, end).map(|(at, b)| (at, b.len() as u64))
    }
    /// Lays what is dirty over `out`, which holds the bytes from `start` on.
    pub fn overlay(&self, start: u64, out: &mut [u8]) {
        let end = start + out.len() as u64;
        for (at, b) in self.pieces(start, end) {
            let skip = (at - start) as usize;
            out[skip..skip + b.len()].copy_from_slice(b);
        }
    }
    fn pieces(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let first = self.extents.range(..=start).next_back().map_or(start, |(at, _)| *at);
        self.extents.range(first..end.max(first)).filter_map(move |(at, e)| {
            let (from, to) = (start.max(*at), end.min(at + e.len() as u64));
            (from < to).then(|| (from, &e[(from - at) as usize..(to - at) as usize]))
        })
    }

    /// Takes everything out, neighbours within a window joined.
    pub fn take(&mut self) -> Vec<Run> {
        self.bytes = 0;
        join(std::mem::take(&mut self.extents), self.window)
    }
    /// Takes out the windows that are dirty from end to end.
    pub fn take_full(&mut self) -> Vec<Run> {
        let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
        for (at, e) in &self.extents {
            *sums.entry(at / self.window).or_default() += e.len() as u64;
        }
        let full = |at: &u64| sums.get(&(at / self.window)) == Some(&self.window);
        let taken: BTreeMap<u64, BytesMut> = self.extents.extract_if(.., |at, _| full(at)).collect();
        self.bytes -= taken.values().map(|e| e.len() as u64).sum::<u64>();
        join(taken, self.window)
    }
}

fn join(extents: BTreeMap<u64, BytesMut>, window: u64) -> Vec<Run> {
    let mut out: Vec<(u64, BytesMut)> = Vec::new();
    for (at, e) in extents {
        match out.last_mut() {
            Some((o, l)) if *o + l.len() as u64 == at && *o / window == at / window => l.extend_from_slice(&e),
            _ => out.push((at, e)),
        }
    }
    out.into_iter().map(|(offset, e)| Run { offset, data: e.freeze() }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(b: &mut Buffer) -> Vec<(u64, usize)> {
        b.take().into_iter().map(|r| (r.offset, r.data.len())).collect()
    }

    #[test]
    fn small_sequential_writes_become_records() {
        let mut b = Buffer::new(1 << 16);
        for i in 0..40u64 {
            b.write(i * 4096, &[i as u8; 4096]);
        }
        assert_eq!(b.bytes(), 40 * 4096);
        let full = b.take_full();
        assert_eq!(
            full.iter().map(|r| (r.offset, r.data.len())).collect::<Vec<_>>(),
            [(0, 1 << 16), (1 << 16, 1 << 16)]
        );
        assert_eq!(b.bytes(), 8 * 4096);
        assert_eq!(runs(&mut b), [(2 << 16, 8 * 4096)]);
        assert!(b.is_empty() && b.bytes() == 0);
    }

    #[test]
    fn backwards_and_in_any_order_neighbours_are_joined() {
        let mut b = Buffer::new(1 << 16);
        for i in [3u64, 1, 2, 0] {
            b.write(i * 100, &[i as u8; 100]);
        }
        let r = b.take();
        assert_eq!(r.len(), 1);
        assert_eq!(&r[0].data[..], (0..400).map(|i| (i / 100) as u8).collect::<Vec<_>>());
    }

    /// Random writes and takes against an array that remembers every byte.
    #[test]
    fn it_is_the_array_it_stands_for() {
        let mut x = 12345u64;
        let mut rnd = move |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        let mut b = Buffer::new(512);
        let mut model: Vec<Option<u8>> = vec![None; 4096];
        for step in 0..20_000u32 {
            let at = rnd(4000);
            let n = 1 + rnd(if step % 3 == 0 { 900 } else { 40 }).min(4095 - at);
            let v = (step % 251) as u8;
            b.write(at, &vec![v; n as usize]);
            model[at as usize..(at + n) as usize].fill(Some(v));
            let count = model.iter().filter(|m| m.is_some()).count() as u64;
            assert_eq!(b.bytes(), count);
            let (from, len) = (rnd(4000), 1 + rnd(90));
            let mut out = vec![0xEE; len as usize];
            b.overlay(from, &mut out);
            for (i, o) in out.iter().enumerate() {
                assert_eq!(*o, model.get(from as usize + i).copied().flatten().unwrap_or(0xEE));
            }
            let dirty = (from..from + len).any(|i| model.get(i as usize).copied().flatten().is_some());
            assert_eq!(b.overlaps(from, from + len), dirty);
            assert_eq!(b.ranges(from, from + len).next().is_some(), dirty);
            if rnd(300) == 0 {
                let taken = if rnd(2) == 0 { b.take() } else { b.take_full() };
                for r in taken {
                    assert_eq!(r.offset / 512, (r.offset + r.data.len() as u64 - 1) / 512);
                    for (i, v) in r.data.iter().enumerate() {
                        assert_eq!(model[r.offset as usize + i].take(), Some(*v));
                    }
                }
            }
        }
    }
}
