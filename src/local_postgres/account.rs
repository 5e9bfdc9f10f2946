//! Who the server runs as. `PostgreSQL` refuses to run as root, so root lends it another user;
//! everybody else runs it as themselves.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::{
        fs::{DirBuilderExt, MetadataExt, PermissionsExt, lchown},
        process::CommandExt,
    },
    path::Path,
    process::Command,
};

use super::{LocalPostgresError as Error, error::io_error};

const MODE_BITS: u32 = 0o7777;

/// The user the server runs as.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    /// The user of this process.
    pub own_uid: u32,
}

impl Account {
    /// The account for the database files in `pgdata`, which need not exist yet.
    pub fn for_files(pgdata: &Path) -> Result<Self, Error> {
        let own_uid = own_uid()?;
        if own_uid != 0 {
            return Ok(Self { name: format!("uid {own_uid}"), uid: own_uid, gid: 0, own_uid });
        }
        // Files that a user made stay usable when root starts them.
        if let Ok(meta) = fs::metadata(pgdata)
            && meta.uid() != 0
        {
            let name = format!("uid {}", meta.uid());
            return Ok(Self { name, uid: meta.uid(), gid: meta.gid(), own_uid });
        }
        Self::lent().ok_or(Error::NoAccount)
    }

    /// The user that root lends to the server.
    fn lent() -> Option<Self> {
        let passwd = fs::read_to_string("/etc/passwd").ok()?;
        let find = |name| parse_passwd(&passwd, name).map(|ids| (name, ids));
        let (name, (uid, gid)) = find("postgres").or_else(|| find("nobody"))?;
        Some(Self { name: name.to_owned(), uid, gid, own_uid: 0 })
    }

    /// Whether the server runs as another user than this process.
    pub fn is_lent(&self) -> bool {
        self.uid != self.own_uid
    }

    /// A command that runs as this account, with none of this process's secrets in its environment.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("LC_ALL", "C");
        for name in ["PATH", "LD_LIBRARY_PATH"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.is_lent() {
            command.uid(self.uid).gid(self.gid);
        }
        command
    }

    /// Whether the account can enter `dir` and so open what is in it. (Another user's process finds out
    /// by itself; only what root makes for a lent account has to be foreseen.)
    pub fn can_enter(&self, dir: &Path) -> bool {
        !self.is_lent()
            || dir
                .ancestors()
                .filter_map(|dir| fs::metadata(dir).ok())
                .all(|meta| may_traverse(meta.mode(), meta.uid() == self.uid, meta.gid() == self.gid))
    }

    /// Gives `path` to this account.
    pub fn give(&self, path: &Path) -> Result<(), Error> {
        if !self.is_lent() {
            return Ok(());
        }
        lchown(path, Some(self.uid), Some(self.gid)).map_err(io_error("change the owner of", path))
    }

    /// Makes the directory `path` with this mode and owner. One that exists is taken only when it is a real
    /// directory of this account or this process: in `/tmp` any user could have put one there first.
    pub fn claim_dir(&self, path: &Path, mode: u32) -> Result<(), Error> {
        match fs::DirBuilder::new().mode(mode).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io_error("create", path)(e));
            }
            _ => {}
        }
        let meta = fs::symlink_metadata(path).map_err(io_error("read", path))?;
        if !meta.is_dir() || (meta.uid() != self.uid && meta.uid() != self.own_uid) {
            return Err(Error::NotOurs { path: path.to_owned(), uid: meta.uid(), wanted: self.uid });
        }
        if meta.mode() & MODE_BITS != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io_error("protect", path))?;
        }
        if meta.uid() == self.uid { Ok(()) } else { self.give(path) }
    }
}

/// The effective user id; the standard library has no call for it.
fn own_uid() -> Result<u32, Error> {
    let output = Command::new("id").arg("-u").output().map_err(io_error("run", Path::new("id")))?;
    let uid = String::from_utf8_lossy(&output.stdout).trim().parse().ok();
    uid.ok_or_else(|| Error::command("id -u", &output))
}

/// The ids of a user of `/etc/passwd` (macOS writes nobody's as -2).
fn parse_passwd(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let id = |text: &str| text.parse().ok().or_else(|| Some(text.parse::<i32>().ok()?.cast_unsigned()));
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let mut ids = fields.skip(1);
        Some((id(ids.next()?)?, id(ids.next()?)?)).filter(|(uid, _)| *uid != 0)
    })
}

/// The class of permissions that applies is the first that fits: owner, group, others.
fn may_traverse(mode: u32, owner: bool, group: bool) -> bool {
    let bit = if owner {
        0o100
    } else if group {
        0o010
    } else {
        0o001
    };
    mode & bit != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lent_account_is_read_from_passwd() {
        let passwd = "root:x:0:0::/:/bin/sh\nnobody:*:-2:-2::/:/bin/false\npostgres:x:101:104:P,,,:/v:/b\n";
        assert_eq!(parse_passwd(passwd, "postgres"), Some((101, 104)));
        assert_eq!(parse_passwd(passwd, "nobody"), Some((u32::MAX - 1, u32::MAX - 1)));
        assert_eq!(parse_passwd(passwd, "root"), None, "root is no account for the server");
        assert_eq!(parse_passwd("postgres:x:abc:1", "postgres"), None);
    }

    #[test]
    fn permissions_are_those_of_the_first_fitting_class() {
        assert!(may_traverse(0o755, false, false));
        assert!(!may_traverse(0o700, false, false));
        assert!(!may_traverse(0o077, true, true), "an owner without x is kept out, whatever others may");
        assert!(may_traverse(0o710, false, true));
        assert!(!may_traverse(0o701, false, true));
    }

    #[test]
    fn a_closed_ancestor_makes_a_directory_unreachable() {
        let outer = env::temp_dir().join(format!("tenantry-reach-{}", std::process::id()));
        let inner = outer.join("inner");
        fs::create_dir_all(&inner).expect("a temporary directory");
        let stranger = Account { name: String::new(), uid: u32::MAX - 7, gid: u32::MAX - 7, own_uid: 0 };
        let close = |mode| fs::set_permissions(&outer, fs::Permissions::from_mode(mode));
        close(0o755).expect("own directory");
        assert!(stranger.can_enter(&inner));
        close(0o700).expect("own directory");
        assert!(!stranger.can_enter(&inner));
        assert!(!stranger.can_enter(&inner.join("not-there-yet")));
        fs::remove_dir_all(&outer).expect("own directory");
    }
}
