//! An initramfs in cpio's "newc" form (kernel documentation, "initramfs buffer format").

use std::{
    collections::HashSet,
    fs,
    io::Write,
    path::{Component, Path},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CONSOLE: u32 = 0o020_600;

/// An archive that is being written. Folders on the way to a file are made by themselves; what is there already is not written twice.
pub struct Archive<W: Write> {
    to: W,
    inode: u32,
    written: usize,
    names: HashSet<String>,
}

impl<W: Write> Archive<W> {
    pub fn new(to: W) -> Self {
        Self { to, inode: 0, written: 0, names: HashSet::new() }
    }

    /// An empty folder.
    pub fn folder(&mut self, name: &str) -> Result<()> {
        self.parents(&format!("{name}/x"))
    }

    /// The device that the kernel opens for /init before devtmpfs is mounted.
    pub fn console(&mut self) -> Result<()> {
        self.parents("dev/console")?;
        self.entry("dev/console", CONSOLE, &[], (5, 1))
    }

    pub fn file(&mut self, name: &str, data: &[u8]) -> Result<()> {
        self.parents(name)?;
        if self.names.insert(name.to_owned()) {
            self.entry(name, PROGRAM, data, (0, 0))?;
        }
        Ok(())
    }

    /// A program of this machine with the shared libraries that it asks for, at the paths where it looks for them. Debug information, the larger
    /// part of a test binary, stays out; `scratch` is a folder for the smaller copy.
    pub fn program(&mut self, name: &str, path: &Path, scratch: &Path) -> Result<()> {
        self.file(name, &stripped(path, scratch)?)?;
        for library in libraries(path)? {
            let data = fs::read(&library).with_context(|| format!("failed to read {library}"))?;
            self.file(library.trim_start_matches('/'), &data)?;
        }
        Ok(())
    }

    /// Writes the end mark.
    pub fn finish(mut self) -> Result<()> {
        self.entry("TRAILER!!!", 0, &[], (0, 0))?;
        self.to.flush().context("failed to write the initramfs")
    }

    fn parents(&mut self, name: &str) -> Result<()> {
        let parts: Vec<_> = Path::new(name).components().filter(|c| matches!(c, Component::Normal(_))).collect();
        for end in 1..parts.len() {
            let folder = parts[..end].iter().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/");
            if self.names.insert(folder.clone()) {
                self.entry(&folder, FOLDER, &[], (0, 0))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8], device: (u32, u32)) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(data.len()).with_context(|| format!("{name} is too large for an initramfs"))?;
        let name_size = u32::try_from(name.len() + 1)?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let header = fields.iter().fold(String::from("070701"), |text, field| format!("{text}{field:08x}"));
        self.padded(format!("{header}{name}\0").as_bytes())?;
        self.padded(data)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        let padding = self.written.next_multiple_of(4) - self.written;
        self.written += padding;
        self.to.write_all(bytes)?;
        self.to.write_all(&[0; 3][..padding]).context("failed to write the initramfs")
    }
}

fn stripped(path: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let copy = scratch.join("stripped");
    let status = Command::new("strip").arg("--strip-debug").arg("-o").arg(&copy).arg(path).status().context("failed to start strip")?;
    ensure!(status.success(), "strip {}: {status}", path.display());
    fs::read(&copy).with_context(|| format!("failed to read {}", copy.display()))
}

/// Full paths of the libraries; none for a static program.
fn libraries(path: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(path).stderr(Stdio::null()).output().context("failed to start ldd")?;
    Ok(paths(&String::from_utf8_lossy(&output.stdout)))
}

fn paths(ldd: &str) -> Vec<String> {
    ldd.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/'))).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_ended() -> Result<()> {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.console()?;
        archive.file("a/b/c", b"12345")?;
        archive.file("a/b/c", b"twice")?;
        archive.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        let names: Vec<&str> = starts.iter().filter_map(|at| text[at + 110..].split('\0').next()).collect();
        assert_eq!(names, ["dev", "dev/console", "a", "a/b", "a/b/c", "TRAILER!!!"]);
        Ok(())
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x7ff)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        assert_eq!(paths(text), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
        assert!(paths("\tnot a dynamic executable\n").is_empty());
    }
}
