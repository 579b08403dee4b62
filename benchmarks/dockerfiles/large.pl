# perl large.pl FOLDER COUNT: files of 25 KB on average, in directories of 200.
my ($folder, $count) = @ARGV;
system("mkdir", "-p", $folder);
my $pool = join "", map { chr(($_ * 2654435761 >> 13) & 255) } 0 .. 131071;
for my $n (0 .. $count - 1) {
    my $directory = "$folder/d" . int($n / 200);
    mkdir $directory if $n % 200 == 0;
    open my $file, ">", "$directory/f$n" or die "$directory/f$n: $!";
    print $file "$n\n", substr($pool, ($n * 37) % 80000, 1000 + ($n * 7919) % 49000);
    close $file;
}
