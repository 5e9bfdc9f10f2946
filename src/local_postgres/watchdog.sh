reply=$1 server=$2
shift 2
trap '' HUP INT
exec 3<&0 </dev/null
if [ "$server" = new ]; then
  "$@" 3<&- &
  server=$! child=yes
fi
(
  while read -r word; do printf '%s\n' "$word" >"$reply"; done
  printf 'stopping %s\n' "$server" >"$reply"
  exec </dev/null
  tenths=0
  while [ "$tenths" -le 200 ] && kill -0 "$server" 2>/dev/null; do
    case $tenths in
      80) kill -QUIT "$server" ;;
      150) kill -KILL "$server" ;;
      *) kill -INT "$server" ;;
    esac
    sleep 0.1
    tenths=$((tenths + 1))
  done
) <&3 3<&- &
reader=$!
exec 3<&-
if [ "${child-}" = yes ]; then
  wait "$server"
else
  while kill -0 "$server" && kill -0 "$reader"; do sleep 1; done 2>/dev/null
fi
kill "$reader" 2>/dev/null
