#!/bin/bash
# Builds a User-Mode Linux kernel for the real-kernel tests out of Debian's
# linux-source-VERSION package. Needs no privileges. See docs/kernels.md.
set -euo pipefail

usage() {
	cat <<'END'
usage: build.sh [options] VERSION OUTDIR

  VERSION    the version in Debian's package name: 6.1, 6.12, 7.3, ...
  OUTDIR     receives linux-um-VERSION, and with that name .config, .log and
             .version (of the package)

options:
  -s DIR     use this unpacked kernel tree; fetch nothing
  -r SUITE   fetch from this Debian suite (for example trixie-backports) with
             private apt state; without it, with the host's own apt sources
  -m URL     mirror used with -r   (default: the one that apt uses on this host)
  -f FILE    configuration fragment              (default um.frag beside this)
  -c LINE    one more configuration line, for example -c CONFIG_SMP=y
             (may be repeated; applied after the fragment)
  -w DIR     work folder for package, tree and objects, about 2 GiB
                                              (default OUTDIR/work-VERSION)
  -t NAME    name of the result, in place of VERSION
  -j N       parallel jobs                              (default: all CPUs)
  -n         dry run: print the commands, do nothing
  -h         this text
END
}

die() { echo "build.sh: $*" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
src= suite= mirror= frag=$here/um.frag work= name= jobs=$(nproc) dry=
extra=()
while getopts s:r:m:f:c:w:t:j:nh o; do
	case $o in
	s) src=$OPTARG ;;	r) suite=$OPTARG ;;	m) mirror=$OPTARG ;;
	f) frag=$OPTARG ;;	c) extra+=("$OPTARG") ;;	w) work=$OPTARG ;;
	t) name=$OPTARG ;;	j) jobs=$OPTARG ;;	n) dry=1 ;;
	h) usage; exit 0 ;;	*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# = 2 ] || { usage >&2; exit 2; }
version=$1 out=$(realpath -m "$2") name=${name:-$1}
work=$(realpath -m "${work:-$out/work-$name}")
obj=$work/obj log=$out/linux-um-$name.log pkg=linux-source-$version

run() {
	printf '+ '; printf '%q ' "$@"; echo
	if [ -z "$dry" ]; then "$@"; fi
}

# 1. What the build needs on the host.
missing=
for t in gcc make flex bison bc ld; do
	command -v "$t" >/dev/null || missing+=" $t"
done
if [ -z "$src" ]; then
	for t in apt-get dpkg-deb tar xz; do
		command -v "$t" >/dev/null || missing+=" $t"
	done
fi
[ -z "$missing" ] || die "not found:$missing (docs/kernels.md lists the packages)"
[ -r "$frag" ] || die "cannot read $frag"
frag=$(realpath "$frag")
run mkdir -p "$out" "$work" "$obj"

# 2. The source tree.
fetch() {
	local apt=(apt-get)
	if [ -n "$suite" ]; then
		local a=$work/apt
		run mkdir -p "$a/lists/partial" "$a/cache/archives/partial"
		[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
			grep -m1 '/debian/\?$') || die "no Debian mirror in apt's sources: give -m URL"
		local key=/usr/share/keyrings/debian-archive-keyring.gpg
		local line="deb [signed-by=$key] $mirror $suite main"
		echo "+ echo '$line' > $a/sources.list"
		[ -n "$dry" ] || echo "$line" > "$a/sources.list"
		apt+=(-o "Dir::State=$a" -o "Dir::State::lists=$a/lists" -o "Dir::Cache=$a/cache"
		      -o "Dir::Etc::sourcelist=$a/sources.list" -o Dir::Etc::sourceparts=/dev/null
		      -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User=)
		run "${apt[@]}" -q update
	fi
	echo "+ cd $work"
	[ -n "$dry" ] || cd "$work"
	run "${apt[@]}" -q download "$pkg"
	local deb=$pkg.deb
	[ -n "$dry" ] || deb=$(ls -t "$work/${pkg}"_*.deb | head -n1)
	echo "+ dpkg-deb -f $deb Version > $out/linux-um-$name.version"
	[ -n "$dry" ] || dpkg-deb -f "$deb" Version > "$out/linux-um-$name.version"
	run dpkg-deb -x "$deb" "$work/pkg"
	run tar -C "$work" -xf "$work/pkg/usr/src/$pkg.tar.xz"
	run rm -rf "$work/pkg" "$deb"
	# Before 6.14 the room for a process's extended registers is fixed, and enough for AVX-512: with AMX init dies at its
	# first instruction ("ptrace set fp regs failed, errno = 14"). It needs kernel stacks to match.
	run sed -i 's/(HOST_FP_SIZE, 2696)/(HOST_FP_SIZE, 12288)/' "$work/$pkg/arch/x86/um/user-offsets.c"
}
if [ -z "$src" ]; then
	src=$work/$pkg
	if [ -f "$src/Makefile" ]; then echo "using the tree already in $src"; else fetch; fi
fi
src=$(realpath -m "$src")
[ -n "$dry" ] || [ -f "$src/arch/um/Makefile" ] || die "$src is no kernel tree with arch/um"

# 3. The configuration: the architecture's default, then the fragment.
mk=(make -C "$src" ARCH=um "O=$obj")
run "${mk[@]}" -s x86_64_defconfig
all=$work/fragment
echo "+ cat $frag <(extra lines: ${extra[*]:-none}) > $all"
if [ -z "$dry" ]; then
	{ cat "$frag"; [ ${#extra[@]} = 0 ] || printf '%s\n' "${extra[@]}"; } > "$all"
fi
run env ARCH=um "$src/scripts/kconfig/merge_config.sh" -m -O "$obj" "$obj/.config" "$all"
run "${mk[@]}" -s olddefconfig

# An option can be dropped without a word; say so, and stop where none of the
# tests could run.
if [ -z "$dry" ]; then
	while read -r line; do
		case $line in
		CONFIG_*=*)	grep -qxF -- "$line" "$obj/.config" || echo "not in effect: $line" ;;
		"# CONFIG_"*" is not set")
			o=${line#\# }; o=${o%% *}
			! grep -q "^$o=" "$obj/.config" || echo "not in effect: $line" ;;
		esac
	done < "$all"
	for o in HOSTFS BLK_DEV_UBD BLK_DEV_INITRD DEVTMPFS EXT4_FS EROFS_FS FUSE_FS FANOTIFY_ACCESS_PERMISSIONS; do
		grep -q "^CONFIG_$o=y" "$obj/.config" || die "CONFIG_$o could not be set"
	done
fi

# 4. Build.
t0=$(date +%s)
echo "+ nice -n 19 ${mk[*]} -j$jobs linux > $log"
if [ -z "$dry" ]; then
	nice -n 19 "${mk[@]}" "-j$jobs" linux > "$log" 2>&1 || { tail -n 20 "$log" >&2; die "build failed, see $log"; }
fi
run strip -o "$out/linux-um-$name" "$obj/linux"
run cp "$obj/.config" "$out/linux-um-$name.config"
[ -n "$dry" ] || echo "built $out/linux-um-$name ($(stat -c %s "$out/linux-um-$name") bytes) in $(($(date +%s) - t0)) s"
