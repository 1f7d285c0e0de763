"""mount(8), fstab and umount(8), and users other than root: each in a mount namespace of its own.

mount(8) looks for its helpers in /sbin, which is not ours to write to: in the namespace a directory with the same files and
ours lies over it, and a private /etc/fstab, /etc/fuse.conf and /dev/fuse (mode 666, as udev makes it) over the machine's.
"""
import contextlib
import os
import shlex

from cluster import Cluster, marked_processes, wait_until
from test_daemon import DB, create

USER = 65534  # nobody: fusermount3 wants a user that has a name


def with_litefs(n=2, **options):
    cluster = Cluster(n=n, litefs_allow_other=True, litefwd_opts=options)
    cluster.with_litefwd = False
    return cluster


class Namespace:
    """Runs shell scripts with litefwd installed: sh -e, $mnt is the mountpoint, $dir a private directory."""

    def __init__(self, cluster, node, fstab=()):
        self.cluster, self.node = cluster, node
        self.dir = os.path.join(node.base, "ns")
        os.mkdir(self.dir)
        for path in (cluster.base, node.base, self.dir):
            os.chmod(path, 0o711)
        self.fstab = os.path.join(self.dir, "fstab")
        with open(self.fstab, "w", encoding="utf-8") as file:
            file.write("".join(line + "\n" for line in fstab))

    def script(self, text):
        quoted = {name: shlex.quote(value) for name, value in
                  {"dir": self.dir, "mnt": self.node.mount, "litefwd": self.cluster.litefwd_binary, "fstab": self.fstab, "db": DB}.items()}
        return f"""
dir={quoted["dir"]} mnt={quoted["mnt"]} fstab={quoted["fstab"]} db={quoted["db"]}
mkdir -p $dir/machine $dir/sbin
mount --bind /sbin/. $dir/machine
ln -sf $dir/machine/* $dir/sbin/
cp {quoted["litefwd"]} $dir/sbin/litefwd
ln -sf litefwd $dir/sbin/mount.litefwd
mount --bind $dir/sbin /sbin/.
touch $dir/fuse.conf
mount --bind $dir/fuse.conf /etc/fuse.conf
mount --bind $fstab /etc/fstab
mkdir -p $dir/dev
mount -t tmpfs -o mode=755 none $dir/dev
mknod -m 666 $dir/dev/fuse c 10 229
mount --bind $dir/dev/fuse /dev/fuse
PATH=/usr/sbin:/usr/bin:/sbin:/bin
write() {{ sqlite3 -bail -cmd '.timeout 20000' $mnt/$db "INSERT INTO t VALUES ('$1')"; }}
mounted() {{ grep -q " $mnt fuse.litefwd " /proc/self/mounts; }}
as_user() {{ setpriv --reuid={USER} --regid={USER} --clear-groups "$@"; }}
as_user_in_background() {{ setpriv --reuid={USER} --regid={USER} --clear-groups "$@" & }}
{text}"""

    def run(self, text, check=True):
        """(exit status, stdout, stderr) of the script. It must unmount what it mounts: its namespace ends with its last process."""
        code, out, err = self.cluster.run(["unshare", "--mount", "--propagation", "slave", "sh", "-euc", self.script(text)], timeout=60, check=False)
        assert not check or code == 0, (code, out, err)
        return code, out, err


def fstab_line(node, device, kind, more=""):
    options = f"noauto,_netdev,nofail,x-systemd.requires=litefs.service,x-systemd.after=network.target,noatime,{node.litefwd_options()}{more}"
    return f"{device} {node.mount} {kind} {options} 0 0"


def give_to_user(node):
    for path in (node.state_dir, node.spool_dir, node.mount):
        os.chown(path, USER, USER)


def litefwds(cluster):
    """Ids of what runs as litefwd: its binary is another one in each namespace."""
    found = []
    for pid in marked_processes(cluster.base):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8") as comm:
            found += [pid] if comm.read().strip() in ("litefwd", "mount.litefwd") else []
    return found


def gone(cluster):
    wait_until("litefwd has ended after umount", lambda: not litefwds(cluster), 20)


ROUND = """
mount $mnt
write one
mounted
grep " $mnt fuse.litefwd " /proc/self/mounts
umount $mnt
! mounted
"""


def round_trip(kind):
    """Mounted by mount(8) from fstab on a replica, written on, unmounted by umount(8)."""
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.replicas[0]
        namespace = Namespace(cluster, node, [fstab_line(node, node.litefs_dir, kind)])
        before = cluster.primary.pos(DB)[0]
        _, out, _ = namespace.run(ROUND)
        assert out.startswith(node.litefs_dir + " "), out
        assert cluster.primary.pos(DB)[0] == before + 1
        gone(cluster)


def test_mount__fstab_line_of_type_litefwd__mounted_written_unmounted():
    round_trip("litefwd")


def test_mount__fstab_line_of_type_fuse_litefwd__mounted_written_unmounted():
    round_trip("fuse.litefwd")


def test_mount__device_none__directory_of_litefs_yml():
    with with_litefs(litefs_url=None, primary_url=None) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        for kind in ("litefwd", "fuse.litefwd"):
            namespace = Namespace(cluster, node, [fstab_line(node, "none", kind, f",litefs_config={node.config_path}")])
            before = cluster.primary.pos(DB)[0]
            _, out, _ = namespace.run(ROUND)
            assert out.startswith("none "), out
            assert cluster.primary.pos(DB)[0] == before + 1
            gone(cluster)
            cluster.run(["rm", "-r", namespace.dir])


def test_mount__all_twice__mounted_once():
    """mount -a must find what it has mounted in the mount table, or it fails the second time."""
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.replicas[0]
        line = fstab_line(node, node.litefs_dir, "litefwd").replace("noauto,", "")
        none = line.replace(node.litefs_dir + " ", "none ") .replace("_netdev", f"_netdev,litefs_config={node.config_path}")
        for fstab in (line, none):
            namespace = Namespace(cluster, node, [fstab])
            namespace.run("mount -a -T $fstab; mount -a -T $fstab; write one; umount $mnt")
            gone(cluster)
            cluster.run(["rm", "-r", namespace.dir])


def test_mount__litefs_not_there__status_of_mount_and_the_reason():
    with with_litefs() as cluster:
        node = cluster.replicas[0]
        empty = os.path.join(node.base, "empty")
        os.mkdir(empty)
        namespace = Namespace(cluster, node, [fstab_line(node, empty, "litefwd", ",wait=0"),
                                              f"{node.litefs_dir} /mnt litefwd noauto,halt_timout=1s 0 0"])
        code, _, err = namespace.run("mount $mnt", check=False)
        assert code == 32 and "nothing is mounted there" in err, (code, err)
        code, _, err = namespace.run("mount /mnt", check=False)
        assert code == 1 and "is halt_timeout=TIME meant" in err, (code, err)
        code, _, err = namespace.run("mount -s /mnt -o wait=0,state_dir=$dir,litefs_url=http://127.0.0.99:1", check=False)
        assert code == 32 and "litefs_missing" in err, (code, err)


def test_mount__fake__checked_and_not_mounted():
    with with_litefs() as cluster:
        node = cluster.replicas[0]
        namespace = Namespace(cluster, node)
        options = shlex.quote(node.litefwd_options())
        namespace.run(f"mount.litefwd {node.litefs_dir} $mnt -f -v -o {options}; ! mounted")
        code, _, err = namespace.run(f"mount.litefwd /proc $mnt -f -o wait=0,{options}", check=False)
        assert code == 32 and "not LiteFS" in err, (code, err)


def test_mount__noexec__kernel_refuses_programs():
    with with_litefs() as cluster:
        node = cluster.replicas[0]
        namespace = Namespace(cluster, node, [fstab_line(node, node.litefs_dir, "litefwd", ",noexec")])
        _, out, _ = namespace.run('mount $mnt; grep " $mnt " /proc/self/mounts; umount $mnt')
        assert "noexec" in out and "nosuid" in out and "nodev" in out, out
        gone(cluster)


def test_mount__users_line_of_fstab__a_user_mounts_writes_and_unmounts():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.replicas[0]
        give_to_user(node)
        namespace = Namespace(cluster, node, [fstab_line(node, node.litefs_dir, "litefwd", ",users")])
        before = cluster.primary.pos(DB)[0]
        _, out, _ = namespace.run("""
as_user mount $mnt
grep " $mnt fuse.litefwd " /proc/self/mounts
as_user sqlite3 -bail -cmd '.timeout 20000' $mnt/$db "INSERT INTO t VALUES (1)"
! ls $mnt 2>$dir/err
as_user umount $mnt
! mounted
""")
        assert f"user_id={USER}" in out and "noexec" in out, out
        assert cluster.primary.pos(DB)[0] == before + 1
        gone(cluster)


def test_user__without_mount__daemon_and_foreground_write_on_a_replica():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.replicas[0]
        give_to_user(node)
        namespace = Namespace(cluster, node)
        before = cluster.primary.pos(DB)[0]
        namespace.run(f"""
as_user litefwd -o {node.litefwd_options()} {node.litefs_dir} $mnt
as_user sqlite3 -bail -cmd '.timeout 20000' $mnt/$db "INSERT INTO t VALUES (1)"
as_user fusermount3 -u $mnt
! mounted
as_user_in_background litefwd -f -o {node.litefwd_options()} {node.litefs_dir} $mnt 2>$dir/log
until mounted; do kill -0 $!; sleep 0.1; done
as_user sqlite3 -bail -cmd '.timeout 20000' $mnt/$db "INSERT INTO t VALUES (2)"
kill $!
wait $!
! mounted
""")
        assert cluster.primary.pos(DB)[0] == before + 2
        gone(cluster)


def test_user__on_the_primary__writes():
    with with_litefs(n=1) as cluster:
        create(cluster)
        node = cluster.primary
        give_to_user(node)
        before = node.pos(DB)[0]
        Namespace(cluster, node).run(f"""
as_user litefwd -o {node.litefwd_options()} {node.litefs_dir} $mnt
as_user sqlite3 -bail -cmd '.timeout 20000' $mnt/$db "INSERT INTO t VALUES (1)"
as_user sqlite3 -bail $mnt/new.db "CREATE TABLE t(x); INSERT INTO t VALUES (1)"
as_user fusermount3 -u $mnt
! mounted
""")
        assert node.pos(DB)[0] == before + 1 and node.pos("new.db")[0] > 0
        gone(cluster)


def test_user__not_allowed__told_what_to_do():
    cluster = Cluster(n=1, litefs_allow_other=False)
    cluster.with_litefwd = False
    with cluster:
        node = cluster.primary
        namespace = Namespace(cluster, node)
        give_to_user(node)
        options, litefs = node.litefwd_options(wait="1h"), node.litefs_dir
        # LiteFS lets nobody in; nor does waiting help.
        code, _, err = namespace.run(f"as_user litefwd -o {options} {litefs} $mnt", check=False)
        assert code == 3 and "fuse.allow-other: true" in err, (code, err)
        code, _, err = namespace.run(f"chmod 600 $dir/dev/fuse; as_user litefwd -o {options} {litefs} $mnt", check=False)
        assert code == 1 and "/dev/fuse cannot be opened: Permission denied" in err, (code, err)
        code, _, err = namespace.run(f"as_user env PATH=/nowhere $dir/sbin/litefwd -o {options} {litefs} $mnt", check=False)
        assert code == 1 and "fusermount3 is missing" in err, (code, err)
        code, _, err = namespace.run(f"as_user litefwd -o {options},allow_other {litefs} $mnt", check=False)
        assert code == 1 and 'line "user_allow_other"' in err, (code, err)
        node.stop_litefs()
        cluster.litefs_allow_other = True
        node.start_litefs()
        code, _, err = namespace.run(f"as_user litefwd -o {options},state_dir=/run/litefwd-of-nobody {litefs} $mnt", check=False)
        assert code == 1 and "state_dir=/run/litefwd-of-nobody cannot be made" in err, (code, err)
        os.chown(node.mount, 0, 0)
        code, _, err = namespace.run(f"as_user litefwd -o {options} {litefs} $mnt", check=False)
        assert code == 1 and "no write access to mountpoint" in err, (code, err)
        secret = os.path.join(namespace.dir, "secret")
        with open(secret, "w", encoding="ascii") as file:
            file.write("0123456789abcdef0123456789abcdef")
        os.chmod(secret, 0o644)
        code, _, err = namespace.run(f"litefwd -o {options},gateway_secret={secret} {litefs} $mnt", check=False)
        assert code == 1 and "chmod 600" in err, (code, err)


def test_user__allow_other_with_user_allow_other__others_write():
    with with_litefs() as cluster:
        create(cluster)
        node = cluster.replicas[0]
        give_to_user(node)
        before = cluster.primary.pos(DB)[0]
        Namespace(cluster, node).run(f"""
echo user_allow_other >$dir/fuse.conf
as_user litefwd -o {node.litefwd_options()},allow_other,umask=0 {node.litefs_dir} $mnt
write one
umount $mnt
! mounted
""")
        assert cluster.primary.pos(DB)[0] == before + 1
        gone(cluster)


def test_mount__options_in_litefwd_conf_alone__mounted():
    """The file that is compiled in, found without being named: fstab then has nothing to say."""
    with with_litefs(litefs_url=None, primary_url=None) as cluster:
        create(cluster)
        node = cluster.replicas[0]
        namespace = Namespace(cluster, node, [f"none {node.mount} litefwd noauto,_netdev 0 0"])
        conf = os.path.join(namespace.dir, "litefwd.conf")
        with open(conf, "w", encoding="utf-8") as file:
            file.write("# all of it\n\n" + node.litefwd_options(litefs_config=node.config_path, umask="077").replace(",", "\n") + "\n")
        before = cluster.primary.pos(DB)[0]
        _, out, _ = namespace.run(r"""
path=$(litefwd --help | sed -n 's/^Options are read from \(.*\/litefwd.conf\), too.*/\1/p')
etc=$(dirname "$path")
cp -a "$etc" $dir/etc
cp $dir/litefwd.conf $dir/etc/litefwd.conf
mount --bind $dir/etc "$etc"
mount $mnt
write one
stat -c %a $mnt/$db
umount $mnt
! mounted
echo 'nonsense' >>$dir/etc/litefwd.conf
! mount $mnt 2>$dir/err
grep "$path:.*unknown option" $dir/err
""")
        assert out.startswith("600\n"), out
        assert cluster.primary.pos(DB)[0] == before + 1
        gone(cluster)
