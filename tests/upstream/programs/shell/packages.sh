# What apk and microdnf have in common: packages are folders that lie in the base, unseen by PATH until one is added.
packages=/usr/lib/stand-in/packages
installed=/usr/lib/stand-in/installed

check() { # the names that no package has
  for name; do [ -d "$packages/$name" ] || echo "$name"; done
}
unlink_files() { # busybox's cp would write through a link to busybox that stands in the way
  (cd "$packages/$1" && find . ! -type d) | while read -r file; do rm -f "/$file"; done
}
add() {
  for name; do
    unlink_files "$name"
    cp -a "$packages/$name/." / || exit 1
    echo "$name" >> "$installed"
  done
}
remove() {
  for name; do
    grep -qx "$name" "$installed" || continue
    unlink_files "$name"
    sed -i "/^$name\$/d" "$installed"
  done
}
