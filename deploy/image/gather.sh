#!/bin/sh
# gather.sh packages: prints what apt-get is to install, with versions, for contents.txt beside this script.
# gather.sh ROOT: copies the programs with their libraries, and the files, into ROOT; and the package database of what
# was copied (var/lib/dpkg/status.d, where scanners look in images without a distribution).
set -eu
contents=$(dirname "$0")/contents.txt
wanted() { sed '/^#/d; /^ *$/d' "$contents"; }

if [ "$1" = packages ]; then
  wanted | awk '{print $3 == "-" ? $2 : $2 "=" $3 "*"}' | sort -u
  exit
fi

root=$1
PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$root/var/lib/dpkg/status.d"

# Debian's /bin, /sbin and /lib are links into /usr: the copy has the links too, so that every path works.
mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64"
for name in bin sbin lib lib64; do [ -e "$root/$name" ] || ln -s "usr/$name" "$root/$name"; done

copy() { # PATH: the file that it finally names, at that path
  case $1 in
    /bin/* | /sbin/* | /lib/* | /lib64/*) set -- "/usr$1" ;;
  esac
  mkdir -p "$root$(dirname "$1")"
  [ -e "$root$1" ] || cp -L "$1" "$root$1"
}

record() { # PATH: its package
  # dpkg knows files by the path that the package has them at, with or without /usr.
  owner=$(dpkg -S "$1" 2>/dev/null || dpkg -S "${1#/usr}" 2>/dev/null || dpkg -S "/usr$1" 2>/dev/null || true)
  owner=${owner%%:*}
  [ -z "$owner" ] || [ -e "$root/var/lib/dpkg/status.d/$owner" ] ||
    dpkg-query -s "$owner" > "$root/var/lib/dpkg/status.d/$owner"
}

wanted | while read -r name package _; do
  case $name in
    /*) path=$name ;;
    *) path=$(command -v "$name") || { echo "gather: $name is missing: install $package" >&2; exit 1; } ;;
  esac
  copy "$path"
  record "$path"
  [ -x "$path" ] || continue
  ldd "$path" | sed -n 's/^[^/]*\(\/[^ ]*\) (.*/\1/p' | while read -r library; do
    copy "$library"
    record "$(readlink -f "$library")"
  done
done
